"""Operations and memory of an update by itself, given which factors train: as its equations are written, and as kernels
compute it. ``paths`` says which of them a layer takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from ..methods import Chain, Matrix, Update
from ..methods.base import Sizes
from ..methods.mapped import MappedChain

Way = Literal["written", "kernel"]
"""``written``: factor by factor, as the papers count; a dense update by a product of its own. ``kernel``: what the
default kernels run: two matrices, and one product with the output gradient for all factors downstream of the
bottleneck; a dense update rides on the base weight."""


@dataclass(frozen=True)
class Flops:
    """Floating-point operations in one adapted layer; a multiply and an add count as two.

    ``vector`` is the elementwise work of the diagonals in all three passes, kept apart because matrix counters (and
    the papers) leave it out.
    """

    forward: int
    input_grad: int
    weight_grad: int
    vector: int = 0

    @property
    def total(self) -> int:
        """All matrix work of a training step."""
        return self.forward + self.input_grad + self.weight_grad

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


def flops_per_token(
    update: Update,
    sizes: Sizes,
    trains: Collection[str] | None = None,
    *,
    input_grad: bool = True,
    way: Way = "written",
) -> Flops:
    """Operations of one token, given which factors train (all, when None).

    Args:
        update: a chain, or one under a map.
        sizes: widths by symbol.
        trains: names of the factors that train.
        input_grad: False for a layer below which nothing trains.
        way: how it is computed.
    """
    trains = update.names if trains is None else trains
    if isinstance(update, MappedChain):
        dense = 2 * sizes["d_in"] * sizes["d_out"]
        gradient = dense * bool(trains)
        return Flops(0, 0, gradient) if way == "kernel" else Flops(dense, dense * input_grad, gradient)
    assert isinstance(update, Chain), "there are two kinds of updates"
    flops = Flops(0, 0, 0)
    needed = input_grad
    for dense, vector, trained in _steps(update, sizes, trains, way):
        back = needed  # the gradient passes this factor when something upstream, or the input, needs it
        flops += Flops(dense, dense * back, dense * trained, vector * (1 + back + 2 * trained))
        needed = needed or trained
    return flops


def _steps(chain: Chain, sizes: Sizes, trains: Collection[str], way: Way) -> list[tuple[int, int, bool]]:
    """What a token meets in turn: operations of a product, elements of a vector, whether it trains."""
    if way == "kernel":
        split, _ = chain.bottleneck(sizes)
        width = sizes[chain.factors[split - 1].n_out]
        sides = ((sizes["d_in"], chain.factors[:split]), (sizes["d_out"], chain.factors[split:]))
        return [(2 * width * d, 0, any(f.name in trains for f in side)) for d, side in sides]
    return [
        (2 * math.prod(f.shape(sizes)), 0, f.name in trains)
        if isinstance(f, Matrix)
        else (0, sizes[f.n], f.name in trains)
        for f in chain
    ]


def flops_per_pass(
    update: Update,
    sizes: Sizes,
    trains: Collection[str] | None = None,
    *,
    input_grad: bool = True,
    way: Way = "written",
) -> Flops:
    """Operations that one forward and backward pass of any number of tokens adds to ``flops_per_token``.

    A chain as written has none; kernels multiply inner factors into the two matrices, and take these matrices'
    gradients to them. A map's update is multiplied out, by the default kernel in both passes, and its gradient taken to
    the factors. Arguments as for ``flops_per_token``.
    """
    trains = update.names if trains is None else trains
    if isinstance(update, MappedChain):
        return _map_per_pass(update, sizes, trains, again=way == "kernel" and (input_grad or bool(trains)))
    assert isinstance(update, Chain), "there are two kinds of updates"
    flops = Flops(0, 0, 0)
    if way == "written":
        return flops
    split, end = update.bottleneck(sizes)
    for side in (update.factors[:split], update.factors[end:]):
        columns, needed = 0, False  # of what is composed so far, and whether it wants a gradient
        for factor in side:
            trained = factor.name in trains
            if isinstance(factor, Matrix):
                product = 2 * math.prod(factor.shape(sizes)) * columns
                flops += Flops(product, 0, product * (needed + trained))
                columns = columns or sizes[factor.n_in]
            needed = needed or trained
    return flops


def _map_per_pass(update: MappedChain, sizes: Sizes, trains: Collection[str], again: bool) -> Flops:
    (b, a, *later), offsets = update.parts.matrices, update.parts.offsets
    first = 2 * sizes["d_out"] * sizes[b.n_in] * sizes[a.n_in]
    build, gradient = first, first * ((b.name in trains) + (a.name in trains))
    needed = b.name in trains or a.name in trains
    for i, matrix in enumerate(later):
        product = 2 * sizes["d_out"] * sizes[matrix.n_out] * sizes[matrix.n_in]
        build += product
        gradient += product * (needed + (matrix.name in trains))
        needed = needed or matrix.name in trains or (bool(offsets) and offsets[i].name in trains)
    return Flops(build, build * again, gradient)


def saved_bytes_per_token(
    update: Update, sizes: Sizes, trains: Collection[str] | None = None, itemsize: int = 4
) -> int:
    """Activation bytes that one token keeps for backward by the default kernels, beyond the base layer's own.

    A chain keeps the input only while a factor upstream of the bottleneck trains, the narrow product only while one
    downstream does; nothing d_out-wide ever is (methods that train only vectors keep r numbers a token).
    """
    trains = update.names if trains is None else trains
    if isinstance(update, MappedChain):
        return itemsize * sizes["d_in"] * bool(trains)
    assert isinstance(update, Chain), "there are two kinds of updates"
    split, _ = update.bottleneck(sizes)
    upstream, downstream = (
        any(f.name in trains for f in side) for side in (update.factors[:split], update.factors[split:])
    )
    return itemsize * (upstream * sizes["d_in"] + downstream * sizes[update.factors[split - 1].n_out])
