"""Adapted layers on their way into one autograd node: which may, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ..kernels import Part, fused_parts, has_node, joins, keep_mask, keep_scale, node
from .folding import folds_now, plain_base

if TYPE_CHECKING:
    from .layer import ChainLayer


def fusable(layer: ChainLayer, x: Tensor, adapter_name: str) -> bool:
    """Whether base and chain can be one node: a plain frozen linear layer that is whole and that nothing hooks into,
    one dtype (or autocast, which makes it one), no compiler at work."""
    if not plain_base(layer) or torch.compiler.is_compiling():
        return False
    base, chain = cast(nn.Linear, layer.base_layer), layer.chains[adapter_name]
    weight, bias = base.weight, base.bias
    dropout = layer.dropout(adapter_name)
    if not has_node(chain) or (dropout is not None and not chain.linear):
        return False
    factor = layer.factor(adapter_name, chain.names[0])
    same = x.dtype == weight.dtype == factor.dtype and (bias is None or bias.dtype == x.dtype)
    return same or (torch.is_autocast_enabled(x.device.type) and x.is_floating_point())


def joinable(layer: ChainLayer, x: Tensor, adapter_name: str) -> bool:
    """Whether the layer can be in one node with others that read x."""
    able = layer.only(adapter_name) and fusable(layer, x, adapter_name) and not folds_now(layer, x)
    return able and _joins(layer, x, adapter_name)


def _joins(layer: ChainLayer, x: Tensor, adapter_name: str) -> bool:
    dropped = layer.dropout(adapter_name) is not None  # only that node has the mask inside
    return dropped or joins(layer.chains[adapter_name], layer.tensors(adapter_name), x)


def fuse(x: Tensor, adapter_name: str, layers: Sequence[ChainLayer]) -> Sequence[Tensor]:
    """The outputs of layers that read x, each of them fusable.

    Args:
        x: (..., d_in).
        adapter_name: the adapter that is active in all of them.
        layers: one, or several that are joinable.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    dropout = layers[0].dropout(adapter_name)
    mask = None if dropout is None else keep_mask(x, dropout.p)
    with nullcontext() if dtype is None else torch.autocast(kind, enabled=False):
        x = x if dtype is None else x.to(dtype)
        if len(layers) == 1 and not _joins(layers[0], x, adapter_name):
            layer = layers[0]
            weight, bias = _base(layer, dtype)
            tensors = layer.tensors(adapter_name)
            return [node(layer.chains[adapter_name], x, weight, bias, tensors, layer.scaling[adapter_name], dtype)]
        parts = [
            Part.of(
                layer.chains[adapter_name],
                *_base(layer, dtype),
                layer.tensors(adapter_name),
                layer.scaling[adapter_name],
                dtype,
            )
            for layer in layers
        ]
        return fused_parts(x, parts, mask, 1.0 if dropout is None else keep_scale(dropout.p))


def _base(layer: ChainLayer, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
    base = cast(nn.Linear, layer.base_layer)
    if dtype is None:
        return base.weight, base.bias
    return base.weight.to(dtype), None if base.bias is None else base.bias.to(dtype)
