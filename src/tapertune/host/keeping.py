"""Dense updates that are made once and kept while no gradients are taken.

A map's update is as large as the weight, and is made anew for each pass. For a batch that is little; for a text that is
written token by token it is most of the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import psutil
import torch
from torch import Tensor, nn

from ..kernels import dense_kept, dense_made
from ..methods.mapped import MappedChain

if TYPE_CHECKING:
    from .layer import ChainLayer

_FIELD = "_kept"


class Kept:
    """One layer's update, for as long as what it was made of is the same. Copies and pickles of a layer have none."""

    def __init__(self) -> None:
        self._of: Any = None
        self._made: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Kept:
        return Kept()

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()

    def output(self, layer: ChainLayer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The output of a bound layer for x.

        Args:
            weight, bias: the base layer's, of x's dtype.
        """
        bound = layer.bound
        assert bound is not None, "only bound layers ask"
        scaling = layer.scaling[bound.adapter]
        of = (bound, bound.stamp(layer), scaling, weight.dtype, weight.device)
        if self._made is None or self._of != of:
            self._made = None  # before the next one is made
            chain = cast(MappedChain, bound.chain)
            self._of, self._made = of, dense_made(chain, weight, bound.tensors(layer), scaling)
        return dense_kept(x, weight, bias, self._made)


def kept(layer: ChainLayer) -> Kept | None:
    """What keeps a layer's update now, or None."""
    return None if torch.is_grad_enabled() else vars(layer).get(_FIELD)


@contextmanager
def updates_kept(model: nn.Module) -> Iterator[None]:
    """While inside, and where gradients are not taken, updates as large as their weights (LoRAN's) are made once
    rather than for each pass: for evaluating, and above all for ``generate``, which passes once a token.

    Costs a copy of the adapted weights in memory. Where the device does not have twice that free, and for other
    methods, nothing changes.
    """
    from .layer import ChainLayer

    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, ChainLayer)
        and _FIELD not in vars(layer)
        and any(isinstance(chain, MappedChain) for chain in layer.chains.values())
    ]
    needed: dict[torch.device, int] = {}
    for layer in layers:
        weight = layer.get_base_layer().weight
        assert isinstance(weight, Tensor), "a linear layer has a weight"
        needed[weight.device] = needed.get(weight.device, 0) + weight.numel() * weight.element_size()
    if any(2 * size > _free(device) for device, size in needed.items()):
        layers = []
    try:
        for layer in layers:
            setattr(layer, _FIELD, Kept())
        yield
    finally:
        for layer in layers:
            vars(layer).pop(_FIELD, None)


def _free(device: torch.device) -> int:
    """Bytes of memory that a device has free; 0 where it does not tell."""
    if device.type == "cpu":
        return psutil.virtual_memory().available
    tell = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    return 0 if tell is None else tell(device)[0]
