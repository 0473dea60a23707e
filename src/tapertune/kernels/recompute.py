"""An activation that its producer can make again from what autograd keeps for the producer anyway.

The input of a linear layer is usually the output of a norm, an activation or a gate, cheap to compute and wide to keep.
Backward may read the producer's own saved tensors, since it runs before the producer's, and so needs no copy of the
output. Saved tensors that hooks watch over (checkpointing, offloading) are left alone: reading them has a price that
only their owner knows. Before torch 2.10 nobody says which they are, and every input is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Rematerialise = Callable[[Any], Tensor]
"""From a tensor's autograd node to the tensor, before that node has run backward."""


class Recomputed(NamedTuple):
    """A tensor that is made again from its node."""

    rematerialise: Rematerialise
    node: Any

    def make(self) -> Tensor:
        return self.rematerialise(self.node)

    def normed(self) -> tuple[Tensor, ...] | None:
        """Input, mean, reciprocal standard deviation, weight and bias, where a layer norm over the last dimension made
        the tensor, all of one dtype and one element after another."""
        if self.node.name() != "NativeLayerNormBackward0":
            return None
        parts = tuple(getattr(self.node, name) for name in _NORM)
        if any(part is None or part.dtype != parts[0].dtype or not part.is_contiguous() for part in parts):
            return None
        return parts if parts[3].shape == parts[0].shape[-1:] else None

    def activated(self) -> Tensor | None:
        """What a GELU (the exact one) was applied to, where that made the tensor."""
        if self.node.name() != "GeluBackward0" or self.node._saved_approximate != "none":
            return None
        return self.node._saved_self


def rematerialiser(x: Tensor) -> Rematerialise | None:
    """How to make ``x`` again from its ``grad_fn``, or None where it has to be kept."""
    node = x.grad_fn
    if not TELLS_OF_HOOKS or node is None or x.output_nr or _hooked():
        return None
    rematerialise, dtype = _of(node, x.shape), x.dtype
    return None if rematerialise is None else lambda node: rematerialise(node).to(dtype)


def _of(node: Any, shape: torch.Size) -> Rematerialise | None:
    if node is None:
        return None
    name = node.name()
    known = _KNOWN.get(name)
    if known is not None:
        rematerialise, kept = known
        return rematerialise if _free(node, kept) else None
    if name == "MulBackward0":
        return _product(node, shape)
    if name == "NativeDropoutBackward0":
        return _dropout(node, shape)
    if name == "ToCopyBackward0":
        inner = _inside(node.next_functions[0][0], shape)
        return None if inner is None else lambda node: inner(node.next_functions[0][0])
    return None


def _inside(node: Any, shape: torch.Size) -> Rematerialise | None:
    """The same of what another operation has been given: there, something that keeps its own output is of use too."""
    if node is not None and node.name() == "ReluBackward0" and _free(node, ("_raw_saved_result",)):
        return lambda node: node._saved_result
    return _of(node, shape)


_C: Any = torch._C
_top_hooks = getattr(_C._autograd, "_top_saved_tensors_default_hooks", None)

TELLS_OF_HOOKS = _top_hooks is not None and hasattr(_C._autograd.SavedTensor, "unpack_hook")
"""Whether this torch says which saved tensors go through hooks."""


def _hooked() -> bool:
    """Whether saved tensors go through hooks now."""
    return _top_hooks is None or _top_hooks(True) is not None


def _free(node: Any, kept: Sequence[str]) -> bool:
    """Whether a node's saved tensors can be read without calling anybody's hook."""
    for name in kept:
        raw = getattr(node, name, None)
        if raw is None or raw.unpack_hook is not None:
            return False
    return True


def _layer_norm(node: Any) -> Tensor:
    if torch.is_grad_enabled():
        return _differentiable_norm(node)
    out = (node._saved_input - node._saved_result1).mul_(node._saved_result2)
    weight, bias = node._saved_weight, node._saved_bias
    if weight is not None:
        out.mul_(weight)
    return out if bias is None else out.add_(bias)


def _differentiable_norm(node: Any) -> Tensor:
    """A layer norm whose statistics have a history; those that its node keeps have none."""
    x, rstd, weight, bias = node._saved_input, node._saved_result2, node._saved_weight, node._saved_bias
    dims = tuple(range(-len(node._saved_normalized_shape), 0))
    centred = x - x.mean(dims, keepdim=True)
    var = centred.square().mean(dims, keepdim=True)
    out = centred * (var + (rstd.detach() ** -2 - var.detach())).rsqrt()  # the node does not tell its epsilon
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _gelu(node: Any) -> Tensor:
    return F.gelu(node._saved_self, approximate=node._saved_approximate)


def _silu(node: Any) -> Tensor:
    return F.silu(node._saved_self)


_NORM = ("_saved_input", "_saved_result1", "_saved_result2", "_saved_weight", "_saved_bias")

_KNOWN: dict[str, tuple[Rematerialise, Sequence[str]]] = {
    "NativeLayerNormBackward0": (_layer_norm, tuple(f"_raw{name}" for name in _NORM)),
    "GeluBackward0": (_gelu, ("_raw_saved_self",)),
    "SiluBackward0": (_silu, ("_raw_saved_self",)),
}


def _factors(node: Any) -> tuple[Tensor, Tensor]:
    return node._saved_self, node._saved_other


def _gated(node: Any) -> Tensor:
    return torch.mul(*_factors(node))


def _product(node: Any, shape: torch.Size) -> Rematerialise | None:
    """A gate times its activation, both kept; or something that is made again, times a constant that is kept: a frozen
    weight in an RMS norm, or what a dropout leaves."""
    if not _free(node, ("_raw_saved_self", "_raw_saved_other")):
        return None
    a, b = _factors(node)
    if a is not None and b is not None:
        return _gated if a.shape == b.shape == shape or torch.broadcast_shapes(a.shape, b.shape) == shape else None
    constant = a if b is None else b
    if constant is None or constant.shape not in (shape, shape[-1:]):
        return None
    side = 0 if b is constant else 1  # of the product, the one that has a history
    if len(node.next_functions) <= side:
        return None
    inside = _inside(node.next_functions[side][0], shape)
    if inside is None:
        return None

    def product(node: Any) -> Tensor:
        a, b = _factors(node)
        constant = a if b is None else b
        return inside(node.next_functions[side][0]).to(constant.dtype).mul(constant)

    return product


def _dropout(node: Any, shape: torch.Size) -> Rematerialise | None:
    """A GPU's dropout, which keeps its mask."""
    inside = _inside(node.next_functions[0][0], shape) if _free(node, ("_raw_saved_result1",)) else None
    if inside is None:
        return None

    def dropout(node: Any) -> Tensor:
        kept = 1 - node._saved_p
        return inside(node.next_functions[0][0]).mul(node._saved_result1).mul_(1 / kept if kept else 0.0)

    return dropout
