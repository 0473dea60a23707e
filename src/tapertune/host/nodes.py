"""Adapted layers on their way into one autograd node: which may, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..kernels import (
    InputDropout,
    Part,
    by_token,
    fused_parts,
    has_node,
    is_small,
    joins,
    keep_mask,
    keep_scale,
    node,
    plain,
    uncompiled,
)
from ..methods.mapped import MappedChain
from .folding import folds_now, plain_base
from .keeping import kept
from .siblings import version

if TYPE_CHECKING:
    from .layer import ChainLayer


class Bound:
    """What a node takes from a layer in which one adapter alone acts, looked up once.

    A layer is called when activations fill the caches, and then a few hundred lookups take as long as a product with a
    narrow factor. What they found is kept for as long as they would find it again.

    Attributes:
        adapter, chain: the adapter and its chain.
        weight, bias: of the base layer, a plain frozen ``nn.Linear`` that nothing hooks into.
    """

    __slots__ = (
        "_active",
        "_adapters",
        "_base",
        "_dropout",
        "_modules",
        "_own",
        "_places",
        "adapter",
        "bias",
        "chain",
        "weight",
    )

    def __init__(self, layer: ChainLayer, adapter: str) -> None:
        base = cast(nn.Linear, layer.base_layer)
        self.adapter, self.chain = adapter, layer.chains[adapter]
        self.weight, self.bias = base.weight, base.bias
        self._base, self._modules = base, layer._modules
        self._active, self._adapters = layer.active_adapters[:], len(layer.chains)
        dropouts = layer.dropouts
        self._dropout = dropouts[adapter]
        self._places = [(layer._modules, "base_layer", base), (dropouts._modules, adapter, self._dropout)]
        self._places += [_place(base, "weight"), _place(base, "bias")]
        self._own: dict[str, Tensor] | None = {}
        for factor in self.chain:
            holders = layer.holders(factor.name)
            holder = holders[adapter]
            self._places.append((holders._modules, adapter, holder))
            if "weight" in holder._parameters:  # not shared, not made by somebody else's code
                self._own[factor.name] = layer.factor(adapter, factor.name)
                self._places.append(_place(holder, "weight"))
        if len(self._own) < len(self.chain.factors):
            self._own = None

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def holds(self, layer: ChainLayer) -> bool:
        """Whether nothing of it has been replaced."""
        base = self._base
        if layer._modules is not self._modules or layer._disable_adapters or layer.merged_adapters:
            return False
        if layer.active_adapters != self._active or len(layer.chains) != self._adapters:
            return False
        if base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks:
            return False
        if "forward" in base.__dict__ or self.weight.requires_grad:
            return False
        if self.bias is not None and self.bias.requires_grad:
            return False
        for mapping, name, value in self._places:  # noqa: SIM110  (a generator costs another frame)
            if mapping.get(name) is not value:
                return False
        return True

    def tensors(self, layer: ChainLayer) -> dict[str, Tensor]:
        """The adapter's factors by name, as of ``ChainLayer.tensors``."""
        return layer.tensors(self.adapter) if self._own is None else self._own

    def dropout(self) -> InputDropout | None:
        """The adapter's dropout, while it does something."""
        dropout = self._dropout
        return dropout if isinstance(dropout, InputDropout) and dropout.training else None

    def fits(self, layer: ChainLayer, x: Tensor) -> bool:
        """Whether x is of one dtype with layer and adapter, or the node or autocast makes it so."""
        if not (self.chain.linear or self.dropout() is None):
            return False
        first = self.chain.names[0]
        factor = layer.factor(self.adapter, first) if self._own is None else self._own[first]
        dtype = x.dtype
        alike = dtype == self.weight.dtype and (self.bias is None or self.bias.dtype == dtype)
        if alike and (factor.dtype == dtype or narrows(x, factor)):
            return True
        return torch.is_autocast_enabled(x.device.type) and x.is_floating_point()

    def stamp(self, layer: ChainLayer) -> int:
        """Changes whenever one of the tensors behind an output does."""
        total = version(self.weight)
        for tensor in layer.tensors(self.adapter).values() if self._own is None else self._own.values():
            total += version(tensor)
        return total


def narrows(x: Tensor, factor: Tensor) -> bool:
    """Whether an adapter in float32 computes in the bfloat16 of its input, as under autocast, rather than the input
    being cast up and kept."""
    return x.dtype == torch.bfloat16 and factor.dtype == torch.float32


def _place(module: nn.Module, name: str) -> tuple[dict[str, Any], str, Any]:
    """Where an attribute is looked up, and what is there: replicas of DataParallel have tensors, not parameters."""
    mapping = module._parameters if name in module._parameters else vars(module)
    return mapping, name, mapping.get(name)


def bind(layer: ChainLayer) -> Bound | None:
    """What a node takes from the layer, or None where it needs a node for each of its parts."""
    known = layer.bound
    if known is not None and known.holds(layer):
        return known
    layer.bound = None
    names = layer.acting()
    if len(names) == 1 and layer.only(names[0]) and plain_base(layer) and has_node(layer.chains[names[0]]):
        layer.bound = Bound(layer, names[0])
    return layer.bound


def fusable(layer: ChainLayer, x: Tensor, adapter_name: str) -> bool:
    """Whether base and chain can be one node: a plain frozen linear layer that is whole and that nothing hooks into,
    one dtype (or autocast, which makes it one), no compiler at work."""
    bound = None if torch.compiler.is_compiling() else bind(layer)
    return bound is not None and bound.adapter == adapter_name and bound.fits(layer, x)


def joinable(layer: ChainLayer, x: Tensor, adapter_name: str) -> bool:
    """Whether the layer can be in one node with others that read x."""
    if not fusable(layer, x, adapter_name) or folds_now(layer, x):
        return False
    return _joins(layer, x) and not in_parts(layer, x)


def _joins(layer: ChainLayer, x: Tensor) -> bool:
    bound = _bound(layer)
    # only that node has the mask inside
    return bound.dropout() is not None or joins(bound.chain, bound.tensors(layer), x)


def _bound(layer: ChainLayer) -> Bound:
    assert layer.bound is not None, "fusable layers are bound"
    return layer.bound


def in_parts(layer: ChainLayer, x: Tensor) -> bool:
    """Whether torch's own operations are quicker than a node for what this fusable layer is given."""
    bound = _bound(layer)
    if not bound.chain.linear:
        return False
    tensors = bound.tensors(layer)
    if not is_small(x) and not by_token(bound.chain, tensors, x):
        return False
    return bound.dropout() is not None or joins(bound.chain, tensors, x)


def parts(layer: ChainLayer, x: Tensor, mask: Tensor | None) -> Tensor:
    """The output of a fusable layer in torch's own operations; ``mask``: of its dropout, while that does something."""
    bound, kind = _bound(layer), x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))  # once for base and chain
    dropout, scaling = bound.dropout(), layer.scaling[bound.adapter]
    if dropout is not None:
        scaling *= keep_scale(dropout.p)
    return plain(bound.chain, x, bound.weight, bound.bias, bound.tensors(layer), scaling, mask)


@uncompiled
def fuse(x: Tensor, layers: Sequence[ChainLayer]) -> Sequence[Tensor]:
    """The outputs of layers that read x, each of them fusable.

    Args:
        x: (..., d_in).
        layers: one, or several that are joinable; the same adapter is active in all of them.
    """
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return _fuse(x, layers, torch.bfloat16 if x.dtype == torch.bfloat16 else None)
    dtype = torch.get_autocast_dtype(kind)
    with torch.autocast(kind, enabled=False):
        return _fuse(x.to(dtype), layers, dtype)


def _fuse(x: Tensor, layers: Sequence[ChainLayer], dtype: torch.dtype | None) -> Sequence[Tensor]:
    first = _bound(layers[0])
    dropout = first.dropout()
    if len(layers) == 1 and not _joins(layers[0], x):
        tensors, scaling = first.tensors(layers[0]), layers[0].scaling[first.adapter]
        weight, bias = _base(first, dtype)
        if isinstance(first.chain, MappedChain) and (keeper := kept(layers[0])) is not None:
            return [keeper.output(layers[0], x, weight, bias)]
        return [node(first.chain, x, weight, bias, tensors, scaling, dtype)]
    parts = []
    for layer in layers:
        bound = _bound(layer)
        scaling = layer.scaling[bound.adapter]
        parts.append(Part.of(bound.chain, *_base(bound, dtype), bound.tensors(layer), scaling, dtype))
    if dropout is None:
        return fused_parts(x, parts)
    return fused_parts(x, parts, keep_mask(x, dropout.p), keep_scale(dropout.p))


def _base(bound: Bound, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
    if dtype is None:
        return bound.weight, bound.bias
    return bound.weight.to(dtype), None if bound.bias is None else bound.bias.to(dtype)
