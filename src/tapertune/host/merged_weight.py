"""Base weight and update as one weight, kept for as long as what it is made of is the same.

    y = x (W + scaling * update)' + bias

The base weight is never written to: whatever reads, saves, merges, moves or copies the layer finds base and factors as
they are. It costs a second copy of the base weight in memory, and is asked for in two places: by a policy that merges
what it has frozen, and by ``updates_kept``, for evaluation, where an update is as large as the weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import psutil
import torch
from torch import Tensor, nn

from ..kernels import State, merged_weight

# in half precision the sum would round most of an update away
_DTYPES = (torch.float32, torch.float64)


class Request(NamedTuple):
    """When a layer's base and update are to be one weight.

    Attributes:
        frozen: the adapter that may be merged whenever none of its factors trains, or None.
        without_gradients: whether an update as large as the weight is kept while gradients are not taken.
    """

    frozen: str | None = None
    without_gradients: bool = False


_NEVER = Request()


class MergedWeight:
    """One layer's. Copies and pickles make their own.

    Args:
        request: when it is to be made.
    """

    def __init__(self, request: Request = _NEVER) -> None:
        self.request = request
        self._forget()

    def __deepcopy__(self, memo: dict[int, Any]) -> MergedWeight:
        return MergedWeight(self.request)

    def __reduce__(self) -> tuple[type[MergedWeight], tuple[Request]]:
        return MergedWeight, (self.request,)

    def ask(self, **changes: Any) -> None:
        """Changes the request."""
        self.request = self.request._replace(**changes)
        if self.request == _NEVER:
            self._forget()

    def of(self, state: State, weight: Tensor) -> Tensor:
        """``kernels.merged_weight`` of a layer.

        Args:
            state: the layer.
            weight: its base weight, or what that is cast to.
        """
        parts, others = [state.weight, *state.tensors().values()], (state.scaling, weight.dtype, weight.device)
        if self._weight is None or self._others != others or not self._current(parts):
            self._forget()  # before the next one is made
            self._weight = merged_weight(state.update, weight, state.tensors(), state.scaling)
            # aliases keep the memory, so that no other tensor can turn up at the same address with the same version
            self._parts, self._others = [(part.detach(), version(part)) for part in parts], others
        return self._weight

    @property
    def exists(self) -> bool:
        """Whether it has been made."""
        return self._weight is not None

    def _current(self, parts: list[Tensor]) -> bool:
        return len(parts) == len(self._parts) and all(
            part.data_ptr() == alias.data_ptr() and part.shape == alias.shape and version(part) == number
            for part, (alias, number) in zip(parts, self._parts, strict=True)
        )

    def _forget(self) -> None:
        self._weight: Tensor | None = None
        self._parts: list[tuple[Tensor, int]] = []
        self._others: tuple[Any, ...] = ()


def version(tensor: Tensor) -> int:
    """Grows when a tensor is written to; tensors made in inference mode do not count."""
    return 0 if tensor.is_inference() else tensor._version


def mergeable(weight: Tensor, factors: Iterable[Tensor], dropout: nn.Module) -> bool:
    """Whether the sum of a plain base layer and a frozen adapter can stand for both.

    Args:
        weight: the base layer's.
        factors: the adapter's.
        dropout: of the adapter's input.
    """
    # a replica of DataParallel has no Parameter, a packed weight one of another class
    if type(weight) is not nn.Parameter or weight.dtype not in _DTYPES or weight.is_meta or weight.is_inference():
        return False
    if not isinstance(dropout, nn.Identity):
        return False
    return all(f.dtype == weight.dtype and f.device == weight.device and not f.requires_grad for f in factors)


@contextmanager
def updates_kept(model: nn.Module) -> Iterator[None]:
    """While inside, and where gradients are not taken, updates as large as their weights (LoRAN's) are made once
    rather than for each pass: for evaluating, and above all for ``generate``, which passes once a token.

    Costs a copy of the adapted weights in memory. Where the device does not have twice that free, and for other
    methods, nothing changes.
    """
    layers = []
    needed: dict[torch.device, int] = {}
    for module in model.modules():
        kept = vars(module).get("merged_weight")
        if not isinstance(kept, MergedWeight) or kept.request.without_gradients:
            continue
        layer = cast(Any, module)
        if not all(update.linear for update in layer.chains.values()):
            weight: Tensor = layer.get_base_layer().weight
            needed[weight.device] = needed.get(weight.device, 0) + weight.numel() * weight.element_size()
            layers.append(kept)
    if any(2 * size > _free(device) for device, size in needed.items()):
        layers = []
    try:
        for kept in layers:
            kept.ask(without_gradients=True)
        yield
    finally:
        for kept in layers:
            kept.ask(without_gradients=False)


def _free(device: torch.device) -> int:
    """Bytes of memory that a device has free; 0 where it does not tell."""
    if device.type == "cpu":
        return psutil.virtual_memory().available
    tell = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    return 0 if tell is None else tell(device)[0]
