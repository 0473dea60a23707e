"""What a layer's forward needs, looked up once: it knows no layer, and says when to look again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..adapt.sharding import is_sharded
from ..kernels import InputDropout, Spec
from ..methods import Update
from .factor_modules import SharedWeight, of_one_dtype
from .merged_weight import MergedWeight, mergeable, version

_Place = tuple[Mapping[str, Any], str, Any]


class Owner(Protocol):
    """What an adapted layer says of itself, in PEFT's names."""

    _modules: dict[str, Any]
    _disable_adapters: bool
    merged_adapters: list[str]
    chains: dict[str, Update]

    @property
    def active_adapters(self) -> list[str]: ...


@dataclass(frozen=True, eq=False, slots=True)
class Snapshot:
    """A layer in which one adapter alone acts beside a plain frozen ``nn.Linear`` that nothing hooks into.

    A layer is called when activations fill the caches, and then a few hundred lookups take as long as a product with a
    narrow factor. What they have given is kept for as long as they would give it again. Copies and pickles have none.

    Attributes:
        adapter, update, scaling: the adapter, what it adds, and how much of it.
        weight, bias: of the base layer.
        dropout: of the adapter's input, while it does something.
        spec: all of it in numbers.
    """

    adapter: str
    update: Update
    scaling: float
    weight: Tensor
    bias: Tensor | None
    dropout: InputDropout | None
    spec: Spec
    _factors: Mapping[str, Tensor]
    _one_dtype: bool
    _merged: MergedWeight
    _base: nn.Linear
    _modules: Mapping[str, Any]
    _active: Sequence[str]
    _adapters: int
    _dropout: nn.Module
    _places: Sequence[_Place]
    _seen: Sequence[tuple[Tensor, bool, torch.dtype, int]]

    @classmethod
    def take(
        cls,
        owner: Owner,
        adapter: str,
        *,
        base: nn.Linear,
        factors: Mapping[str, tuple[nn.ModuleDict, Tensor]],
        dropouts: nn.ModuleDict,
        scaling: dict[str, float],
        merged: MergedWeight,
    ) -> Snapshot | None:
        """The layer as it is now; None where some weight is not kept where PyTorch keeps it.

        Args:
            owner: the layer.
            adapter: the adapter that acts alone.
            base: the base layer, a plain one.
            factors: by name, what holds it for all adapters, and this adapter's as this layer reads it.
            dropouts, scaling: by adapter.
            merged: the layer's.
        """
        update, dropout = owner.chains[adapter], dropouts[adapter]
        places = [(owner._modules, "base_layer", base), (dropouts._modules, adapter, dropout)]
        places += [(scaling, adapter, scaling[adapter]), (vars(merged), "request", merged.request)]
        places += [_place(base, "weight"), _place(base, "bias")]
        tensors = {name: tensor for name, (_, tensor) in factors.items()}
        for modules, _ in factors.values():
            holder = modules[adapter]
            shared = isinstance(holder, SharedWeight)
            weight = (
                (vars(holder.projection), "tensor", holder.projection.tensor) if shared else _place(holder, "weight")
            )
            if weight[2] is None:
                return None
            places += [(modules._modules, adapter, holder), weight]
        alike = of_one_dtype(update, tensors)
        spec = Spec.of(
            update,
            alike,
            base.weight.shape,
            dtype=base.weight.dtype if base.bias is None or base.bias.dtype == base.weight.dtype else None,
            dropout=_acts(dropout),
            merge_frozen=merged.request.frozen == adapter and mergeable(base.weight, tensors.values(), dropout),
            merge_without_gradients=merged.request.without_gradients,
        )
        known = [tensor for tensor in (base.weight, base.bias, *tensors.values()) if tensor is not None]
        return cls(
            adapter=adapter,
            update=update,
            scaling=scaling[adapter],
            weight=base.weight,
            bias=base.bias,
            dropout=dropout if isinstance(dropout, InputDropout) and dropout.training else None,
            spec=spec,
            _factors=tensors,
            _one_dtype=alike is tensors,
            _merged=merged,
            _base=base,
            _modules=owner._modules,
            _active=owner.active_adapters[:],
            _adapters=len(owner.chains),
            _dropout=dropout,
            _places=places,
            _seen=[(tensor, tensor.requires_grad, tensor.dtype, tensor.numel()) for tensor in known],
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def is_current(self, owner: Owner) -> bool:
        """Whether nothing of it has been replaced, frozen, cast or cut since."""
        base = self._base
        if owner._modules is not self._modules or owner._disable_adapters or owner.merged_adapters:
            return False
        if owner.active_adapters != self._active or len(owner.chains) != self._adapters:
            return False
        if base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks:
            return False
        if "forward" in base.__dict__ or _acts(self._dropout) is not (self.dropout is not None):
            return False
        for mapping, name, value in self._places:  # loops, as generators cost another frame
            if mapping.get(name) is not value:
                return False
        for tensor, requires_grad, dtype, numel in self._seen:
            if tensor.requires_grad is not requires_grad or tensor.dtype is not dtype or tensor.numel() != numel:
                return False
        return True

    def tensors(self) -> Mapping[str, Tensor]:
        """The adapter's factors by name, as of ``ChainLayer.tensors``."""
        return self._factors if self._one_dtype else of_one_dtype(self.update, self._factors)

    def merged(self, weight: Tensor) -> Tensor:
        """Base and update as one weight, of the base's weight or what it is cast to."""
        return self._merged.of(self, weight)

    def version(self) -> int:
        """Changes whenever one of the tensors behind an output is written to."""
        total = version(self.weight)
        for tensor in self._factors.values():
            total += version(tensor)
        return total


def _acts(dropout: nn.Module) -> bool:
    return isinstance(dropout, InputDropout) and dropout.training


def _place(module: nn.Module, name: str) -> _Place:
    """Where an attribute is looked up, and what is there: replicas of DataParallel have tensors, not parameters."""
    mapping = module._parameters if name in module._parameters else vars(module)
    return mapping, name, mapping.get(name)


def is_plain(base: nn.Module) -> bool:
    """Whether a base layer is a whole, frozen ``nn.Linear`` that nothing hooks into."""
    if type(base) is not nn.Linear or "forward" in vars(base):
        return False
    if base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks:
        return False
    trains = base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)
    return not trains and not is_sharded(base.weight)
