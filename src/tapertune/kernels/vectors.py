"""A frozen linear layer and a chain of two frozen matrices, of which only vectors train, as one matrix product.

    y = x W_m' + c,    W_m = W + s diag(v) B diag(u) A

Forward and the gradient of the input cost what the layer alone costs, or twice as much where the update stays apart
from the weight. The gradients of both vectors come from ``T = dY' x A'``, taken in the cheaper order: ``dY' (x A')``,
which keeps an r-wide product for backward, or ``(dY' x) A'``, which keeps the input.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..methods import Chain, Diagonal, Matrix, Update
from ..methods.base import Tensors
from .forms import Form
from .transforms import graph_wanted


class TwoMatrices(NamedTuple):
    """``diag(v) B diag(u) A``; a vector that is None is all ones."""

    a: Tensor
    u: Tensor | None
    b: Tensor
    v: Tensor | None


def two_matrices(update: Update, tensors: Tensors) -> TwoMatrices | None:
    """The update's tensors, where it is a matrix, a vector or none, a matrix, a vector or none, and the matrices are
    frozen."""
    names = around_vectors(update)
    if names is None:
        return None
    a, u, b, v = names
    if tensors[a].requires_grad or tensors[b].requires_grad:
        return None
    return TwoMatrices(tensors[a], None if u is None else tensors[u], tensors[b], None if v is None else tensors[v])


def around_vectors(update: Update) -> tuple[str, str | None, str, str | None] | None:
    """Names of the factors that ``TwoMatrices`` holds, where the update has that form."""
    if not isinstance(update, Chain):
        return None
    a, *rest = update
    at = next(i for i, factor in enumerate(rest) if isinstance(factor, Matrix))
    between, b, after = rest[:at], rest[at], rest[at + 1 :]
    if isinstance(a, Diagonal) or len(between) > 1 or len(after) > 1 or any(isinstance(f, Matrix) for f in after):
        return None
    u, v = (some[0].name if some else None for some in (between, after))
    return a.name, u, b.name, v


class _MergedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scaling: float,
        form: Form,
        a: Tensor,
        u: Tensor | None,
        b: Tensor,
        v: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        rows = x.reshape(-1, x.shape[-1])
        up = _up(u, b, v).to(x.dtype)
        total = _merged(weight, a, up, scaling, form)
        y = rows.mm(total.T) if bias is None else torch.addmm(bias, rows, total.T)
        if form.apart:
            torch.addmm(y, rows, weight.T, out=y)
        needs = ctx.needs_input_grad
        vectors = needs[6] or needs[8]
        # an output, so that gradients which are differentiated again reach the input through it
        low = rows.mm(a.T.to(x.dtype)) if vectors and not form.wide else None
        seen = x if vectors and form.wide else low
        kept = total if form.keep else up
        base = weight if form.apart or not form.keep else None
        ctx.save_for_backward(seen, *((kept, base) if needs[0] else (None, None)), a, u, b, v)
        ctx.weight = weight if needs[0] else None
        ctx.shape, ctx.scaling, ctx.form = x.shape, scaling, form
        ctx.set_materialize_grads(False)
        return y.view(*x.shape[:-1], weight.shape[0]), low

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if grads[1] is not None or graph_wanted(grads):
            return _differentiable(ctx, *grads)
        if grads[0] is None:
            return (None,) * 9
        seen, kept, weight, a, u, b, v = ctx.saved_tensors
        needs, scaling, form = ctx.needs_input_grad, ctx.scaling, ctx.form
        dy = grads[0].reshape(-1, b.shape[0])
        dx = du = dv = None
        if needs[0]:
            dx = dy.mm(kept if form.keep else _merged(weight, a, kept, scaling, form))
            if form.apart:
                torch.addmm(dx, dy, weight, out=dx)
            dx = dx.view(ctx.shape)
        if seen is not None:
            # r x d_out is the fast orientation of a narrow product
            wide = form.wide
            t = dy.T.mm(seen.reshape(dy.shape[0], -1)).mm(a.T.to(dy.dtype)) if wide else seen.T.mm(dy).T
            t = t.to(b.dtype).mul_(b)
            if scaling != 1.0:
                t = t.mul_(scaling)
            if needs[6]:
                du = t.sum(0) if v is None else t.T.mv(v)
            if needs[8]:
                dv = t.sum(1) if u is None else t.mv(u)
        return dx, None, None, None, None, None, du, None, dv


def _differentiable(ctx: Any, dy: Tensor | None, d_low: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients in operations that can be differentiated again; ``d_low`` is of the r-wide product."""
    seen, _, _, a, u, b, v = ctx.saved_tensors
    needs, scaling, form = ctx.needs_input_grad, ctx.scaling, ctx.form
    dx = du = dv = None
    if d_low is not None and needs[0]:
        dx = d_low.mm(a.to(d_low.dtype))
    if dy is not None:
        dy = dy.reshape(-1, b.shape[0])
        if needs[0]:
            up = b if u is None else b * u
            up = (up if v is None else up * v.unsqueeze(1)).to(dy.dtype)
            back = dy.mm(ctx.weight) + dy.mm(up).mm(a.to(dy.dtype)) * scaling
            dx = back if dx is None else dx + back
        if seen is not None:
            z = seen.reshape(dy.shape[0], -1).mm(a.T.to(dy.dtype)) if form.wide else seen
            t = dy.T.mm(z).to(b.dtype) * b * scaling
            du = (t.sum(0) if v is None else t.T.mv(v)) if needs[6] else None
            dv = (t.sum(1) if u is None else t.mv(u)) if needs[8] else None
    return dx if dx is None else dx.view(ctx.shape), None, None, None, None, None, du, None, dv


def _merged(weight: Tensor, a: Tensor, up: Tensor, scaling: float, form: Form) -> Tensor:
    return torch.addmm(weight, up, a.to(up.dtype), beta=0 if form.apart else 1, alpha=scaling)


def _up(u: Tensor | None, b: Tensor, v: Tensor | None) -> Tensor:
    up = b if u is None else b * u
    if v is None:
        return up
    return up * v.unsqueeze(1) if up is b else up.mul_(v.unsqueeze(1))


def merged_vectors(
    x: Tensor, weight: Tensor, bias: Tensor | None, factors: TwoMatrices, scaling: float, form: Form
) -> Tensor:
    """``x (W + scaling * diag(v) B diag(u) A)' + bias``; x (..., d_in) -> (..., d_out).

    Args:
        x, weight, bias: of one dtype, the base layer's without gradient.
        factors: A and B without gradient; of x's dtype, or cast to it where ``form`` keeps the update apart.
        scaling: on the chain's output.
        form: how.
    """
    a, u, b, v = factors
    if not torch.is_grad_enabled():  # a node is told that a vector asks for a gradient even where none can be taken
        u, v = (None if vector is None else vector.detach() for vector in (u, v))
    y, _ = cast(Any, _MergedLinear.apply(x, weight, bias, scaling, form, a, u, b, v))
    return y
