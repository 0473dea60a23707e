"""An adapter's ranks against the widths of the layers that they are for, and against the memory that there is."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from ..errors import TapertuneError
from ..methods import Matrix
from .config import ChainConfig
from .module_names import module_kind
from .widths import widths_of

log = logging.getLogger("tapertune.ranks")
_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A layer to adapt.

    Attributes:
        path: of the layer.
        sizes: the chain's widths there, by symbol.
        trained: names of the factors that train there.
    """

    path: str
    sizes: dict[str, Any]
    trained: tuple[str, ...]

    @property
    def width(self) -> int:
        return min(self.sizes["d_in"], self.sizes["d_out"])


def check_memory(config: ChainConfig, modules: Mapping[str, nn.Module]) -> None:
    """Is there memory for an adapter, and where it trains for its gradients?

    Args:
        config: of the adapter.
        modules: the base layers that it is for, by path.

    Raises:
        TapertuneError: no, on this machine or on the device of a layer there is less in all.
    """
    weights = [
        weight for module in modules.values() if isinstance(weight := getattr(module, "weight", None), nn.Parameter)
    ]
    if torch.empty(0).device.type == "meta" or any(weight.device.type == "meta" for weight in weights):
        return
    needed = adapter_bytes(config, modules, gradients=1)
    name = config.row.rank
    for device in {torch.device("cpu"), *(weight.device for weight in weights)}:
        there = memory_of(device)
        if there is not None and needed > there:
            rank, what = getattr(config, name), "" if config.inference_mode else " with its gradients"
            raise TapertuneError(
                f"{name} is {rank}; the adapter would take {_size(needed)}{what}, and the memory ({device.type}) is"
                f" {_size(there)}: at most {max(1, rank * there // needed)} fits"
            )
        _check_penalty(config, device, there)


def _check_penalty(config: ChainConfig, device: torch.device, there: int | None) -> None:
    """Raises TapertuneError where a penalty of the plan needs Gram matrices that do not fit: of a module one as high
    and wide as the rank, and its distance from what it should be."""
    rank, size = getattr(config, config.row.rank), torch.get_default_dtype().itemsize
    needed = 2 * rank**2 * size
    if there is None or needed <= there or config.inference_mode:
        return
    if any(plan.penalties for plan in config.resolved_plans()):
        raise TapertuneError(
            f"{config.row.rank} is {rank}; the penalty on {rank} times {rank} products of the vectors of a module would"
            f" take {_size(needed)}, and the memory ({device.type}) is {_size(there)}: at most"
            f" {math.isqrt(there // (2 * size))} fits, or a plan without penalties"
        )


def adapter_bytes(config: ChainConfig, modules: Mapping[str, nn.Module], *, gradients: int) -> int:
    """Bytes of an adapter's weights, and of so many further numbers for each that trains."""
    chain = config.row.chain(config.settings())
    shared = {f.name for f in chain if isinstance(f, Matrix) and f.shared}
    once: dict[str, int] = {}
    count = 0
    for place in _places(config, modules):
        for name, shape in chain.shapes(place.sizes).items():
            numbers = math.prod(shape)
            if name in shared:
                once[name] = max(once.get(name, 0), numbers)
            else:
                count += numbers * (1 + gradients * (name in place.trained))
    return (count + sum(once.values())) * torch.get_default_dtype().itemsize


def width_remark(config: ChainConfig, modules: Mapping[str, nn.Module]) -> str | None:
    """What to say of a rank that is above the widths of layers whose matrices train; None where it is not.

    A product of two matrices has at most the rank of the narrower side of its layer. Random projections, which never
    train, may be wider than that.
    """
    chain, name = config.row.chain(config.settings()), config.row.rank
    matrices = {f.name for f in chain if isinstance(f, Matrix) and name in f.symbols}
    places = list(_places(config, modules))
    above = [p for p in places if p.sizes[name] > p.width and matrices & set(p.trained)]
    if not above:
        return None
    first = min(above, key=lambda place: place.width)
    most = max(place.width for place in above)
    return (
        f"{name} is {first.sizes[name]}, above the width of {len(above)} of {len(places)} layers, such as"
        f" {first.path!r} ({first.sizes['d_in']} to {first.sizes['d_out']}): an update there has rank {first.width} at"
        f" most, and what is beyond {most} only costs"
    )


def memory_of(device: torch.device) -> int | None:
    """All of the memory of a device, in bytes; None where it is not known. Of the processor: what this process's group
    may have."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    if device.type != "cpu":
        return None
    return min([int(psutil.virtual_memory().total), *_group_limits()])


def _group_limits() -> Iterator[int]:
    for name in _GROUP_LIMITS:
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            yield int(text)


def _places(config: ChainConfig, modules: Mapping[str, nn.Module]) -> Iterator[_Place]:
    settings, row = config.settings(), config.row
    chain = row.chain(settings)
    for path, module in modules.items():
        d_in, d_out = widths_of(module)
        rank = config.ranks.get(path, getattr(settings, row.rank))
        kind = module_kind(path, d_in, d_out)
        trained = () if config.inference_mode else tuple(f.name for f in chain if row.trains(settings, f.name, kind))
        sizes = {**vars(settings), **chain.widths, row.rank: rank, "d_in": d_in, "d_out": d_out}
        yield _Place(path=path, sizes=sizes, trained=trained)


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
