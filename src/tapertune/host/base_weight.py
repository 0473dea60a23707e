"""Base weights that updates are added to, and those that other modules have too, such as an output head's that is the
embedding's.

What is right for a merged model is what the adapted one computes, in which the update is of one of the modules. So a
merged weight that was tied becomes a parameter of its own, and unmerging puts the tied one back.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TapertuneError


class OwnWeight:
    """One layer's. The parameter that was tied is kept while there is another in its place.

    Attributes:
        tied: whether another module has the base layer's weight.
    """

    def __init__(self) -> None:
        self.tied = False
        self._shared: list[nn.Parameter] = []

    def set(self, layer: Any, merged: Tensor) -> None:
        """Makes a merged weight the base layer's."""
        base = layer.get_base_layer()
        if self.tied and not self._shared and isinstance(getattr(base, "weight", None), nn.Parameter):
            self._shared = [base.weight]
            base.weight = nn.Parameter(merged, requires_grad=base.weight.requires_grad)
        else:
            layer.set_base_weight(merged)

    def give_back(self, layer: Any) -> None:
        """Ties the base layer's weight again, when nothing is merged into it any more."""
        if self._shared:
            layer.get_base_layer().weight = self._shared.pop()


def find_ties(model: nn.Module, kind: type[nn.Module]) -> None:
    """Tells the layers of a kind whose base weight another module of the model has, too."""
    holders = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    for layer in model.modules():
        if isinstance(layer, kind):
            part: Any = layer
            weight = getattr(part.get_base_layer(), "weight", None)
            part.own_weight.tied = part.own_weight.tied or holders[id(weight)] > 1


@torch.no_grad()
def add_to_base(layer: Any, adapter_name: str, sign: int, *, check: bool = False) -> None:
    """Adds an adapter's update to a layer's base weight, or takes it out again.

    Args:
        layer: an adapted one.
        adapter_name: the adapter.
        sign: 1 or -1.
        check: leave the base untouched where the sum is not finite.

    Raises:
        TapertuneError: the base is quantised in a format that cannot be written back.
        ValueError: with ``check``, a merged weight that is not finite.
    """
    backend = layer.quantization_backend
    if backend is not None and not backend.supports_merge:
        raise TapertuneError(
            f"{layer.module_path} is quantised with {backend.backend_name}, which cannot be merged into"
        )
    delta = layer.get_delta_weight(adapter_name)
    weight = layer.get_base_weight()
    if not layer.chains[adapter_name].linear and weight.dtype in (torch.float16, torch.bfloat16):
        warnings.warn(
            f"{layer.module_path}: merging into {weight.dtype} keeps the low-rank part of the update but rounds "
            "away most of what its elementwise map adds; merge into a float32 base to keep both",
            stacklevel=4,
        )
    merged = weight + (sign * delta).to(weight.device, weight.dtype)
    if check and not torch.isfinite(merged).all():
        raise ValueError(f"NaNs detected in the merged weights. The adapter {adapter_name} seems to be broken")
    layer.own_weight.set(layer, merged)
