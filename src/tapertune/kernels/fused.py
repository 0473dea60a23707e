"""Frozen linear layers that read one input, each with its chain, as one autograd node.

    y_i = x W_i' + c_i + s_i (((x * mask) down_i') * middle_i) up_i'

Base and chain add up in place, so that no second d_out-wide tensor exists. Backward forms each of its products with the
output gradients once, and adds up the input's gradient in place. The products with narrow factors are those of
``lowrank_products``. Kept for backward: the r-wide products only while something downstream of them trains; the input
only while a ``down`` does and it cannot be made again (see ``recompute``); the dropout mask, where there is one, as a
byte an element. ``down``, ``middle`` and ``up`` are the chain composed around its bottleneck (``Chain.split``); their
gradients flow on into the factors.

The r-wide products are an output of the node, too, which nobody sees: gradients that are differentiated again reach the
input and ``down`` through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..methods import Chain
from ..methods.base import Tensors
from .dropout import under_mask
from .lowrank_products import Factor, products
from .recompute import Recomputed, rematerialiser
from .transforms import graph_wanted


class Part(NamedTuple):
    """One layer of a node: base weight (d_out, d_in), bias, and its chain around the bottleneck."""

    weight: Tensor
    bias: Tensor | None
    down: Tensor
    middle: Tensor | None
    up: Tensor
    scaling: float

    @classmethod
    def of(
        cls,
        chain: Chain,
        weight: Tensor,
        bias: Tensor | None,
        tensors: Tensors,
        scaling: float,
        dtype: torch.dtype | None = None,
    ) -> Part:
        """
        Args:
            chain: a product of factors.
            weight, bias: the base layer's, without gradient.
            tensors: the chain's factors by name; of the base's dtype, unless ``dtype`` is given.
            scaling: on the chain's output.
            dtype: what the composed factors are cast to.
        """
        down, middle, up = chain.split(tensors)
        if dtype is not None:
            down, middle, up = down.to(dtype), None if middle is None else middle.to(dtype), up.to(dtype)
        # vectors are read one element after another
        bias = bias if bias is None else bias.contiguous()
        middle = middle if middle is None else middle.contiguous()
        return cls(weight, bias, down, middle, up, scaling)


_WIDTH = 5  # tensors of a part, in the order of its fields
_DOWN, _MIDDLE, _UP = 2, 3, 4
_FIRST = 4  # inputs of the node before the first part's


class _LinearsWithChains(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor | None, rematerialise: Any, scalings: Sequence[float], *flat: Tensor | None
    ) -> tuple[Tensor, ...]:
        parts = _parts(flat)
        rows = x.reshape(-1, x.shape[-1])
        multiply = products(rows, *(part[_DOWN] for part in parts))
        low = multiply.project(rows, mask, _stacked(parts))
        outputs, end = [], 0
        for (weight, bias, down, middle, up), scaling in zip(parts, scalings, strict=True):
            begin, end = end, end + down.shape[0]
            y = multiply.linear_plus_lowrank(low[:, begin:end], Factor(up.T, middle, scaling), rows, weight, bias)
            y = y.view(*x.shape[:-1], weight.shape[0])
            outputs.append(y)
        downs, downstream = _trains(ctx.needs_input_grad)
        ctx.rematerialise = rematerialise if downs else None
        ctx.save_for_backward(x if downs and rematerialise is None else None, low if downstream else None, mask, *flat)
        ctx.shape, ctx.scalings = x.shape, scalings
        ctx.set_materialize_grads(False)
        return (*outputs, low)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *dys, d_lows = grads
        if d_lows is not None or graph_wanted(dys):
            return _differentiable(ctx, *grads)
        needs = ctx.needs_input_grad
        out: list[Tensor | None] = [None] * len(needs)
        dys = [None if g is None else g.reshape(-1, g.shape[-1]) for g in dys]
        some = next((dy for dy in dys if dy is not None), None)
        if some is None:
            return tuple(out)
        x, low, mask, *flat = ctx.saved_tensors
        parts, (downs, _) = _parts(flat), _trains(needs)
        wanted = needs[0] or downs
        multiply = products(some, *(part[_DOWN] for part in parts))
        d_low = some.new_empty(some.shape[0], sum(part[_DOWN].shape[0] for part in parts) if wanted else 0)
        places, end = [], 0
        for i, (part, dy, scaling) in enumerate(zip(parts, dys, ctx.scalings, strict=True)):
            here = slice(end, end := end + part[_DOWN].shape[0])
            places.append(here)
            u = d_low[:, here] if wanted else None
            if dy is None:
                if u is not None:
                    u.zero_()
                continue
            at = _FIRST + i * _WIDTH
            wants = needs[at + _MIDDLE], needs[at + _UP]
            factor = Factor(part[_UP].T, part[_MIDDLE], scaling)
            product = multiply.input_and_factor_grads(dy, factor, u, low[:, here] if True in wants else None)
            if product is not None:
                out[at + _MIDDLE], out[at + _UP] = _downstream(part, product, *wants)
        if downs:
            kept = (
                x.reshape(-1, x.shape[-1])
                if ctx.rematerialise is None
                else Recomputed(ctx.rematerialise, ctx.next_functions[0][0])
            )
            d_downs = multiply.weight_grad(d_low, kept, mask)
            for i, here in enumerate(places):
                if needs[_FIRST + i * _WIDTH + _DOWN]:
                    out[_FIRST + i * _WIDTH + _DOWN] = d_downs[here]
        if needs[0]:
            dx = multiply.expand(d_low, Factor(_stacked(parts)), mask=mask)
            for part, dy in zip(parts, dys, strict=True):
                if dy is not None:
                    torch.addmm(dx, dy, part[0], out=dx)
            out[0] = dx.view(ctx.shape)
        return tuple(out)


def _differentiable(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients in operations that can be differentiated again; the last of ``grads`` is of the r-wide products."""
    *dys, d_lows = grads
    needs = ctx.needs_input_grad
    out: list[Tensor | None] = [None] * len(needs)
    x, low, mask, *flat = ctx.saved_tensors
    parts, downs = _parts(flat), _trains(needs)[0]
    inputs = None
    if downs:
        x = x if ctx.rematerialise is None else ctx.rematerialise(ctx.next_functions[0][0])
        inputs = under_mask(x.reshape(-1, x.shape[-1]), mask)
    dx, end = None, 0
    for i, (part, dy, scaling) in enumerate(zip(parts, dys, ctx.scalings, strict=True)):
        weight, _, down, middle, up = part
        begin, end, at = end, end + down.shape[0], _FIRST + i * _WIDTH
        dz = None if d_lows is None else d_lows[:, begin:end]
        if dy is not None:
            dy = dy.reshape(-1, dy.shape[-1])
            back = dy.mm(up) * scaling
            back = back if middle is None else back * middle
            dz = back if dz is None else dz + back
            if needs[at + _MIDDLE] or needs[at + _UP]:
                product = low[:, begin:end].T.mm(dy) * scaling
                out[at + _MIDDLE] = (product * up.T).sum(1) if needs[at + _MIDDLE] else None
                out[at + _UP] = (product if middle is None else product * middle.unsqueeze(1)).T
            if needs[0]:
                dx = dy.mm(weight) if dx is None else dx + dy.mm(weight)
        if dz is None:
            continue
        if needs[at + _DOWN] and inputs is not None:
            out[at + _DOWN] = dz.T.mm(inputs)
        if needs[0]:
            back = under_mask(dz.mm(down), mask)
            dx = back if dx is None else dx + back
    out[0] = dx if dx is None else dx.view(ctx.shape)
    return tuple(out)


def _parts(flat: Sequence[Any]) -> list[Sequence[Any]]:
    return [flat[i : i + _WIDTH] for i in range(0, len(flat), _WIDTH)]


def _trains(needs: Sequence[bool]) -> tuple[bool, bool]:
    """Whether some ``down`` trains, and whether something downstream of one does."""
    middles, ups = needs[_FIRST + _MIDDLE :: _WIDTH], needs[_FIRST + _UP :: _WIDTH]
    return True in needs[_FIRST + _DOWN :: _WIDTH], True in middles or True in ups


def _downstream(
    part: Sequence[Any], product: Tensor, wants_middle: bool, wants_up: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``middle`` and ``up``, from the product of what they are given and the output's gradient."""
    middle, up = part[_MIDDLE], part[_UP]
    d_middle = (product * up.T).sum(1) if wants_middle else None
    if not wants_up:
        return d_middle, None
    return d_middle, (product if middle is None else product.mul_(middle.unsqueeze(1))).T


def _stacked(parts: Sequence[Sequence[Any]]) -> Tensor:
    return parts[0][_DOWN] if len(parts) == 1 else torch.cat([part[_DOWN] for part in parts])


def fused_parts(x: Tensor, parts: Sequence[Part], mask: Tensor | None = None, scale: float = 1.0) -> tuple[Tensor, ...]:
    """``x W_i' + c_i + s_i chain_i(x * mask * scale)`` of each part; x (..., d_in) -> (..., d_out_i).

    Args:
        x: of one dtype with all parts.
        parts: the layers that read x.
        mask: ones and zeros (uint8) in the shape of x.
        scale: of what the mask leaves.
    """
    flat = [tensor for part in parts for tensor in part[:_WIDTH]]
    outputs: Any = _LinearsWithChains.apply(x, mask, rematerialiser(x), [part.scaling * scale for part in parts], *flat)
    return outputs[:-1]


def fused(
    chain: Chain,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tensors: Tensors,
    scaling: float,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``x W' + bias + scaling * chain(x)`` for a frozen base; arguments as of ``Part.of``, x of the base's dtype."""
    return fused_parts(x, [Part.of(chain, weight, bias, tensors, scaling, dtype)])[0]
