"""An elementwise map of a product, and gradients through it, in memory that may be overwritten.

    M = f(B A) + b,    or  M <- f(M) P + b  for each further matrix P

On a processor, memory touched for the first time costs more than the arithmetic: hence in place, outside autograd, and
in as few tensors as will do.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor

from ..methods.base import Tensors
from ..methods.loran import Sinter
from ..methods.mapped import Map, MappedChain


@singledispatch
def apply_(function: Map, m: Tensor) -> Tensor:
    """``f(m)`` outside autograd; m may be overwritten."""
    return function(m)


@singledispatch
def vjp_(function: Map, m: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """``f(m)``, and ``grad`` times ``f'(m)``; both tensors may be overwritten. Autograd's, unless there is a closed
    form of the map, which is faster."""
    with torch.enable_grad():
        m = m.detach().requires_grad_()
        value = function(m)
    (slope,) = torch.autograd.grad(value, m, grad)
    return value.detach(), slope


@apply_.register
def _(function: Sinter, m: Tensor) -> Tensor:
    return m.addcmul_(m, (m * function.omega).sin_(), value=function.amplitude)


@vjp_.register
def _(function: Sinter, m: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    sine = m * function.omega
    cosine = sine.cos()
    sine.sin_()
    bend = torch.addcmul(sine, m, cosine, value=function.omega, out=cosine)  # of the slope, away from 1
    grad.addcmul_(grad, bend, value=function.amplitude)
    return m.addcmul_(m, sine, value=function.amplitude), grad


def update(chain: MappedChain, tensors: Tensors, out: Tensor | None) -> Tensor:
    """The chain's update of factors in float32 or wider, or its rows that belong to rows of B; outside autograd.

    Args:
        chain: the chain.
        tensors: the factors.
        out: memory of the update's shape that may be worked in.
    """
    matrices, offsets, function, _ = chain.parts
    if len(matrices) > 2 or out is None:
        return chain.evaluate(tensors)
    m = apply_(function, _product(chain, tensors, out))
    return m + tensors[offsets[0].name] if offsets else m


def update_vjp(
    chain: MappedChain, tensors: Tensors, grad: Tensor, into: Tensors, scaling: float, out: Tensor | None = None
) -> Tensor:
    """``update``; and ``scaling`` times the gradients of factors, given the update's, are added in place.

    Args:
        chain, tensors: as for ``update``.
        grad: the gradient of the update; may be overwritten.
        into: what to add to, by name of the factors whose gradients are wanted; for B, in the rows that are given.
        scaling: on the gradients.
        out: as for ``update``.
    """
    matrices, offsets, function, _ = chain.parts
    if len(matrices) > 2:
        with torch.enable_grad():
            leaves = {name: tensor.detach().requires_grad_(name in into) for name, tensor in tensors.items()}
            delta = chain.evaluate(leaves)
        grads = torch.autograd.grad(delta, [leaves[name] for name in into], grad)
        for total, one in zip(into.values(), grads, strict=True):
            total.add_(one, alpha=scaling)
        return delta.detach()
    if offsets and offsets[0].name in into:
        into[offsets[0].name].add_(grad.sum(0), alpha=scaling)
    delta, grad = vjp_(function, _product(chain, tensors, out), grad)
    if offsets:
        delta = delta + tensors[offsets[0].name]
    b, a = (matrix.name for matrix in matrices)
    for name, left, right in ((b, grad, tensors[a].T), (a, tensors[b].T, grad)):
        if name in into:  # in place; unlike addmm_, operation counters see it
            torch.addmm(into[name], left, right, alpha=scaling, out=into[name])
    return delta


def _product(chain: MappedChain, tensors: Tensors, out: Tensor | None) -> Tensor:
    b, a = (tensors[matrix.name] for matrix in chain.parts.matrices)
    return b @ a if out is None else torch.mm(b, a, out=out)
