"""A frozen linear layer and a chain under an elementwise map, as one autograd node.

    y = x (W + s M)' + c,    M = f(B A)

The sum is made for each pass and not kept: backward makes M again, a block of rows at a time, on its way from
``dM = s dY' x`` to the factors, so that of all tensors of the size of W there are two at once, and none between passes.
In half precision the sum would round most of the update away; there M is applied by a product of its own. Under LoRAN's
own map, compiled code does all that is elementwise in one pass (``native/sinter.cpp``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..methods.base import Tensors
from ..methods.mapped import MappedChain, widened
from .maps import update as map_update
from .maps import update_vjp
from .sinter import compiled_sinter
from .transforms import graph_wanted

# Elements of a row block, at most: the tensors of this size that a map works on nearly fit into a core's cache. Smaller
# blocks would be more calls, each of which finds its code and operands pushed out of the cache by the large products.
_BLOCK = 256 * 1024


class _LinearWithMap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, chain: MappedChain, scaling: float, *factors: Tensor
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y = _applied(rows, weight, bias, _weight(chain, weight, factors, scaling))
        ctx.save_for_backward(x if any(ctx.needs_input_grad[_FACTORS:]) else None, weight, *factors)
        ctx.shape, ctx.chain, ctx.scaling = x.shape, chain, scaling
        return y.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight, *factors = ctx.saved_tensors
        chain, needs = ctx.chain, ctx.needs_input_grad
        dy = grads[0].reshape(-1, weight.shape[0])
        rows = x if x is None else x.reshape(dy.shape[0], -1)
        if graph_wanted(grads):
            return _differentiable(ctx, dy, rows, weight, factors)
        # called under autocast, backward would round the products that lead to the factors
        kind = dy.device.type
        casts = kind != "meta" and torch.is_autocast_enabled(kind)
        with torch.autocast(kind, enabled=False) if casts else nullcontext():
            wanted = [name for name, needed in zip(chain.names, needs[_FACTORS:], strict=True) if needed]
            grads_by_name, update = _vjp(chain, factors, wanted, dy, rows, weight, ctx.scaling, needs[0])
            dx = None
            if update is not None:
                dx = dy.mm(update)
                if _onto(weight) is None:
                    torch.addmm(dx, dy, weight, out=dx)
                dx = dx.view(ctx.shape)
        d_factors = (
            grads_by_name[n].to(f.dtype) if n in grads_by_name else None
            for n, f in zip(chain.names, factors, strict=True)
        )
        return dx, *(None,) * (_FACTORS - 1), *d_factors


def _differentiable(
    ctx: Any, dy: Tensor, rows: Tensor | None, weight: Tensor, factors: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """The gradients in operations that can be differentiated again."""
    chain, needs = ctx.chain, ctx.needs_input_grad
    names = [name for name, needed in zip(chain.names, needs[_FACTORS:], strict=True) if needed]
    with torch.enable_grad():
        tensors = dict(zip(chain.names, factors, strict=True))
        update = chain.delta_weight(tensors) * ctx.scaling
        dx = dy.mm(weight + update.to(weight.dtype)) if needs[0] else None
        grads = {}
        if rows is not None and names:
            d_update = widened(dy.T.mm(rows))
            wanted = [tensors[name] for name in names]
            grads = dict(zip(names, torch.autograd.grad(update, wanted, d_update, create_graph=True), strict=True))
    return dx if dx is None else dx.view(ctx.shape), *(None,) * (_FACTORS - 1), *(grads.get(n) for n in chain.names)


def _weight(chain: MappedChain, weight: Tensor, factors: Sequence[Tensor], scaling: float) -> Tensor:
    """``W + s M``; in half precision ``s M``."""
    tensors = _tensors(chain, factors)
    update, onto = torch.empty_like(weight), _onto(weight)
    sinter = compiled_sinter(chain, weight, tensors)
    if sinter is not None:
        sinter.put(weight, scaling, update)
        return update
    for at in _blocks(weight):
        room = _rows(update, at)
        part = _part(chain, tensors, at)
        _put(map_update(chain, part, None if onto is None else room), scaling, onto, at, room)
    return update


def _applied(rows: Tensor, weight: Tensor, bias: Tensor | None, total: Tensor) -> Tensor:
    if _onto(weight) is not None:
        weight = total
    y = rows.mm(weight.T) if bias is None else torch.addmm(bias, rows, weight.T)
    return y if weight is total else torch.addmm(y, rows, total.T, out=y)


_FACTORS = 5  # inputs of the node before the factors


def _vjp(
    chain: MappedChain,
    factors: Sequence[Tensor],
    wanted: Sequence[str],
    dy: Tensor,
    rows: Tensor | None,
    weight: Tensor,
    scaling: float,
    input_grad: bool,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Gradients of the wanted factors; and, where x wants one, what the output's is multiplied with for it."""
    tensors, onto = _tensors(chain, factors), _onto(weight)
    grads = {name: torch.zeros_like(tensors[name]) for name in wanted}
    grad = None if rows is None else widened(dy.T.mm(rows))
    update = torch.empty_like(weight) if input_grad else None
    sinter = compiled_sinter(chain, weight, tensors)
    if sinter is not None:
        sinter.put(weight, scaling, update, grad, grads)
        return grads, update
    for at in _blocks(weight):
        part = _part(chain, tensors, at)
        room = None if update is None else _rows(update, at)
        out = None if onto is None else room
        if grad is None:
            delta = map_update(chain, part, out)
        else:
            delta = update_vjp(chain, part, _rows(grad, at), _part(chain, grads, at), scaling, out)
        if room is not None:
            _put(delta, scaling, onto, at, room)
    return grads, update


def _tensors(chain: MappedChain, factors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {name: widened(factor) for name, factor in zip(chain.names, factors, strict=True)}


def _onto(weight: Tensor) -> Tensor | None:
    """What the update is added to before it is applied."""
    return None if weight.dtype in (torch.float16, torch.bfloat16) else weight


def _blocks(weight: Tensor) -> Sequence[slice | None]:
    """Which rows to work on at a time; None stands for all."""
    if weight.device.type != "cpu":
        return (None,)
    count = math.ceil(weight.numel() / (_BLOCK * torch.get_num_threads()))
    if count < 2:
        return (None,)
    step = math.ceil(weight.shape[0] / count)
    return [slice(i, i + step) for i in range(0, weight.shape[0], step)]


def _rows(tensor: Tensor, at: slice | None) -> Tensor:
    return tensor if at is None else tensor[at]


def _part(chain: MappedChain, tensors: dict[str, Tensor], at: slice | None) -> dict[str, Tensor]:
    """What belongs to these rows of the update: rows of B, and all of the others."""
    if at is None or chain.rows not in tensors:
        return tensors
    return {**tensors, chain.rows: tensors[chain.rows][at]}


def _put(delta: Tensor, scaling: float, onto: Tensor | None, at: slice | None, out: Tensor) -> None:
    if onto is None:
        out.copy_(delta.mul_(scaling))
    else:
        torch.add(_rows(onto, at), delta, alpha=scaling, out=out)


def dense(
    chain: MappedChain, x: Tensor, weight: Tensor, bias: Tensor | None, tensors: Tensors, scaling: float
) -> Tensor:
    """``x (W + scaling * chain)' + bias`` for a frozen base; x (..., d_in) -> (..., d_out).

    Args:
        chain: a chain under a map.
        x, weight, bias: of one dtype, the base layer's without gradient; outside autocast.
        tensors: the chain's factors by name; any dtype.
        scaling: on the chain's output.
    """
    factors = [tensors[name] for name in chain.names]
    return _LinearWithMap.apply(x, weight, bias, chain, scaling, *factors)  # pyright: ignore[reportReturnType]


def dense_weight(chain: MappedChain, weight: Tensor, tensors: Tensors, scaling: float) -> Tensor:
    """What ``dense`` makes of weights for each pass: ``W + scaling * update``, in half precision the update alone."""
    return _weight(chain, weight, [tensors[name] for name in chain.names], scaling)
