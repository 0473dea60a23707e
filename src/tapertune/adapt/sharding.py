"""Parameters that FSDP2 holds as shards: read whole, written shard by shard.

Decisions are about whole factors. Factors are small, so each process gathers them and comes to the same decision. What
is read together is gathered in one message: how long many small ones take is a matter of their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, distributed

_AT_HAND: dict[int, Tensor] = {}


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a shard of a larger one (a ``DTensor``)."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all processes if it is sharded; all of them have to ask."""
    return gather([tensor])[0]


@torch.no_grad()
def gather(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Whole tensors, as ``whole`` has them; one message for all that are split alike."""
    found: dict[int, Tensor] = {}
    alike: dict[Any, list[int]] = {}
    for i, tensor in enumerate(tensors):
        if not is_sharded(tensor):
            found[i] = tensor
        elif id(tensor) in _AT_HAND:
            found[i] = _AT_HAND[id(tensor)]
        elif (split := _split(tensor)) is None:
            found[i] = cast(Any, tensor).full_tensor()
        else:
            ranks = tuple(distributed.get_process_group_ranks(split.group))  # each module may have a group of its own
            alike.setdefault((ranks, tensor.dtype, tensor.device), []).append(i)
    for members in alike.values():
        found.update(zip(members, _gather_alike([tensors[i] for i in members]), strict=True))
    return [found[i] for i in range(len(tensors))]


@contextmanager
def gathered(tensors: Iterable[Tensor]) -> Iterator[None]:
    """In here, these tensors are at hand: reading them whole sends nothing. What ``add`` and ``put`` do to
    them is done to what is at hand, too."""
    shards = list({id(tensor): tensor for tensor in tensors if is_sharded(tensor)}.values())
    _AT_HAND.update(zip(map(id, shards), [copy.clone() for copy in gather(shards)], strict=True))
    try:
        yield
    finally:
        for shard in shards:
            _AT_HAND.pop(id(shard), None)


def add(tensor: Tensor, value: Tensor) -> None:
    """Adds a whole value, equal in all processes, to a tensor that may be a shard."""
    tensor.add_(like(value, tensor))
    if id(tensor) in _AT_HAND:
        _AT_HAND[id(tensor)].add_(value)


def put(tensor: Tensor, value: Tensor) -> None:
    """Sets a tensor that may be a shard to a whole value, equal in all processes."""
    tensor.copy_(like(value, tensor))
    if id(tensor) in _AT_HAND:
        _AT_HAND[id(tensor)].copy_(value)


class _Split(NamedTuple):
    """How a tensor is split: along one dimension, over the processes of one group."""

    group: Any
    parts: int
    dim: int


def _split(tensor: Tensor) -> _Split | None:
    """None where it is split over several groups, or otherwise than in pieces that follow each other."""
    from torch.distributed.tensor import Replicate, Shard

    shard = cast(Any, tensor)
    places = [i for i, placement in enumerate(shard.placements) if not isinstance(placement, Replicate)]
    if len(places) != 1 or type(shard.placements[places[0]]) is not Shard or not tensor.numel():
        return None
    mesh, place = shard.device_mesh, places[0]
    return _Split(mesh.get_group(place), mesh.size(place), shard.placements[place].dim)


def _gather_alike(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Whole tensors of one dtype that the same processes hold, from one message."""
    splits = [cast(_Split, _split(tensor)) for tensor in tensors]
    group, parts, _ = splits[0]
    # each process sends a slot of the same size for each tensor; only the last ones may be less than full
    lengths = [-(-tensor.shape[split.dim] // parts) for tensor, split in zip(tensors, splits, strict=True)]
    slots = [n * tensor.numel() // tensor.shape[s.dim] for n, tensor, s in zip(lengths, tensors, splits, strict=True)]
    locals_ = [cast(Any, tensor).to_local() for tensor in tensors]
    mine = locals_[0].new_zeros(sum(slots))
    for place, local, split in zip(mine.split(slots), locals_, splits, strict=True):
        place[: local.numel()] = local.movedim(split.dim, 0).flatten()
    everyone = mine.new_empty(parts * len(mine))
    distributed.all_gather_into_tensor(everyone, mine, group=group)
    found = []
    for piece, tensor, split in zip(everyone.view(parts, -1).split(slots, dim=1), tensors, splits, strict=True):
        size, others = tensor.shape[split.dim], torch.Size(n for d, n in enumerate(tensor.shape) if d != split.dim)
        found.append(piece.reshape(-1, *others)[:size].movedim(0, split.dim))
    return found


def like(value: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor, equal in all processes, in the form of ``reference``: cut to shards if that is sharded."""
    if not is_sharded(reference):
        return value.to(reference.device)
    from torch.distributed.tensor import DTensor, Replicate

    target = cast(DTensor, reference)
    mesh = target.device_mesh
    copies = DTensor.from_local(value.to(reference.device), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return copies.redistribute(placements=target.placements)
