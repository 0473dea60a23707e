"""A frozen layer whose adapter is frozen too, computed as one linear layer.

    y = x (W + scaling * delta)' + bias

The sum is kept beside the base weight, which is never written to: whatever reads, saves, merges, moves or copies the
layer finds base and factors as they are, and unfolding is exact. The sum is made at its first use and whenever one of
its parts has changed since. It costs a second copy of the base weight in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapt.sharding import is_sharded
from ..kernels import kernel_name

if TYPE_CHECKING:
    from .layer import ChainLayer

_FIELD = "_fold"
# in half precision the sum would round most of an update away
_DTYPES = (torch.float32, torch.float64)


class Fold:
    """One layer's sum of base weight and update.

    Copies and pickles of a layer make their own.

    Args:
        adapter: the adapter's name.
    """

    def __init__(self, adapter: str) -> None:
        self.adapter = adapter
        self._weight: Tensor | None = None
        self._parts: list[tuple[Tensor, int]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Fold:
        return Fold(self.adapter)

    def __reduce__(self) -> tuple[type[Fold], tuple[str]]:
        return Fold, (self.adapter,)

    def weight(self, layer: ChainLayer) -> Tensor:
        """The sum, (d_out, d_in)."""
        parts = [cast(nn.Linear, layer.base_layer).weight, *_factors(layer, self.adapter)]
        if self._weight is None or not self._current(parts):
            # tensors made in inference mode could not serve a later backward pass
            with torch.inference_mode(False), torch.no_grad():
                delta = layer.chains[self.adapter].delta_weight(layer.tensors(self.adapter))
                self._weight = parts[0] + delta * layer.scaling[self.adapter]
            # aliases keep the memory, so that no other tensor can turn up at the same address with the same version
            self._parts = [(part.detach(), part._version) for part in parts]
        return self._weight

    def _current(self, parts: list[Tensor]) -> bool:
        return len(parts) == len(self._parts) and all(
            part.data_ptr() == seen.data_ptr() and part.shape == seen.shape and part._version == version
            for part, (seen, version) in zip(parts, self._parts, strict=True)
        )


def fold(layer: ChainLayer, adapter: str) -> bool:
    """Lets a layer be computed as one weight from now on, whenever this adapter alone is active and does not train.

    Returns:
        whether it can be: a plain float32 or float64 ``nn.Linear`` with factors of its dtype, frozen, without dropout.
    """
    if not can_fold(layer, adapter):
        return False
    known = folded(layer)
    if known is None or known.adapter != adapter:
        setattr(layer, _FIELD, Fold(adapter))
    return True


def unfold(layer: ChainLayer) -> None:
    """Takes ``fold`` back."""
    vars(layer).pop(_FIELD, None)


def folded(layer: nn.Module) -> Fold | None:
    """What ``fold`` has set up, or None."""
    return vars(layer).get(_FIELD)


def plain_base(layer: ChainLayer) -> bool:
    """Whether the base layer is a whole, frozen ``nn.Linear`` that nothing hooks into."""
    base = layer.base_layer
    if type(base) is not nn.Linear or "forward" in vars(base) or layer.quantization_backend is not None:
        return False
    if base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks:
        return False
    trains = base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)
    return not trains and not is_sharded(base.weight)


def can_fold(layer: ChainLayer, adapter: str) -> bool:
    """Whether base and adapter are such that their sum can stand for both."""
    if not plain_base(layer):
        return False
    weight = cast(nn.Linear, layer.base_layer).weight
    # a replica of DataParallel has no Parameter, a packed weight one of another class
    if type(weight) is not nn.Parameter or weight.dtype not in _DTYPES or weight.is_meta or weight.is_inference():
        return False
    if not isinstance(getattr(layer, f"{layer.method.prefix}dropout")[adapter], nn.Identity):
        return False
    return all(
        f.dtype == weight.dtype and f.device == weight.device and not f.requires_grad for f in _factors(layer, adapter)
    )


def folds_now(layer: ChainLayer, x: Tensor) -> bool:
    """Whether the layer's output for x comes from one product."""
    fold = folded(layer)
    if fold is None or torch.compiler.is_compiling() or kernel_name() == "reference":
        return False
    same = x.dtype == cast(nn.Linear, layer.base_layer).weight.dtype and not torch.is_autocast_enabled(x.device.type)
    return same and layer.only(fold.adapter) and can_fold(layer, fold.adapter)


def folded_forward(layer: ChainLayer, x: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    """The layer's output from one product, or None where it is not folded or cannot be now."""
    fold = folded(layer)
    if fold is None or args or kwargs or not folds_now(layer, x):
        return None
    return F.linear(x, fold.weight(layer), cast(nn.Linear, layer.base_layer).bias)


def _factors(layer: ChainLayer, adapter: str) -> list[Tensor]:
    return [layer.factor(adapter, factor.name) for factor in layer.chains[adapter]]
