"""Updates of many matrices at once: rows of an input, each of which goes through one of them.

    y[i] = s chain_e(x[i] * mask),    e = the matrix that row i is for; rows are sorted by it

The chains' factors are parameters of their own, so that each matrix freezes, is pruned and is stepped on by itself;
they are stacked for the pass, along a first axis, and multiplied in grouped products. A matrix to which no row goes
gets no gradient at all, not one of zeros, which would have optimizers move and decay it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TapertuneError
from ..methods import Diagonal, Update
from ..methods.base import Tensors
from .dropout import InputDropout
from .lowrank import lowrank
from .reference import reference
from .selection import kernel_name

_ALIGNED = 16  # bytes; rows of torch's grouped products take a multiple
_GROUPED: Callable[..., Tensor] | None = getattr(F, "grouped_mm", getattr(torch, "_grouped_mm", None))


@dataclass(frozen=True, eq=False)
class StackedUpdate:
    """One adapter's updates of a stack of matrices.

    Attributes:
        update: what is added to each.
        factors: by name, those of all matrices, in order; one tensor where all share it.
        count: how many matrices there are.
        rank: symbol of the width that pruning has shortened in some.
        scaling: on the update.
        dropout: of its input, while it does something.
    """

    update: Update
    factors: Mapping[str, Sequence[Tensor] | Tensor]
    count: int
    rank: str
    scaling: float
    dropout: InputDropout | None

    def tensors(self, index: int) -> Tensors:
        """The factors of one matrix."""
        return {name: t if isinstance(t, Tensor) else t[index] for name, t in self.factors.items()}

    def stacked(self, ends: Tensor | None = None, among: Sequence[int] | None = None, multiple: int = 1) -> Tensors:
        """The factors of all matrices, ranks that differ filled up with zeros; shared ones have a first axis of 1.

        Args:
            ends: where the rows of each matrix end; those without rows get no gradients.
            among: the matrices to stack, in order; None for all.
            multiple: what the rank is filled up to a multiple of.
        """
        return {factor.name: self._stack(factor, ends, among, multiple) for factor in self.update}

    def _stack(self, factor: Any, ends: Tensor | None, among: Sequence[int] | None, multiple: int) -> Tensor:
        tensors = self.factors[factor.name]
        if isinstance(tensors, Tensor):
            return tensors.unsqueeze(0)
        chosen = tensors if among is None else [tensors[i] for i in among]
        axis = factor.symbols.index(self.rank) if self.rank in factor.symbols else None
        shape = list(chosen[0].shape)
        if axis is not None:
            shape[axis] = -(-max(tensor.shape[axis] for tensor in chosen) // multiple) * multiple
        return cast(Tensor, _Stack.apply(ends, tuple(shape), *chosen))

    def one(self, index: int, x: Tensor) -> Tensor:
        """What one matrix's update adds for x (..., d_in) -> (..., d_out)."""
        kernel = reference if kernel_name() == "reference" else lowrank
        return kernel(self.update, self._dropped(x), self.tensors(index), self.scaling)

    def grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        """What the updates add for rows x (n, d_in) that are sorted by matrix -> (n, d_out).

        Args:
            ends: (count,) int32: where the rows of each matrix end; rows beyond the last are of none.
        """
        if not self.update.linear or kernel_name() == "reference":
            parts = [self.one(i, x[a:b]) for i, a, b in groups(ends)]
            rest = x.new_zeros(x.shape[0] - sum(part.shape[0] for part in parts), self._width(x))
            return torch.cat([*parts, rest])
        x = self._dropped(x)
        if any(isinstance(t, Tensor) for t in self.factors.values()):
            return self._factor_by_factor(x, self.stacked(ends), ends) * self.scaling
        down, up = self.update.lora_factors(self.stacked(ends, multiple=_ALIGNED // x.element_size()))
        return product(product(x, down.to(x.dtype), ends), (up * self.scaling).to(x.dtype), ends)

    def _factor_by_factor(self, x: Tensor, tensors: Tensors, ends: Tensor) -> Tensor:
        """Of chains whose matrices all share: composed with vectors they would be as many as there are matrices."""
        rows = torch.arange(x.shape[0], device=x.device)
        which = torch.searchsorted(ends, rows, right=True).clamp(max=self.count - 1)
        for factor in self.update:
            weight = tensors[factor.name].to(x.dtype)
            x = x * weight.index_select(0, which) if isinstance(factor, Diagonal) else product(x, weight, ends)
        return x

    def batched(self, x: Tensor) -> Tensor:
        """What the updates add where each matrix has as many rows: x (count, n, d_in) -> (count, n, d_out)."""
        if not self.update.linear:
            return x @ self.delta().to(x.dtype).mT
        down, up = self.update.lora_factors(self.stacked())
        return self._dropped(x) @ down.to(x.dtype).mT @ (up * self.scaling).to(x.dtype).mT

    def delta(self, among: Sequence[int] | None = None) -> Tensor:
        """The dense updates (count, d_out, d_in), or of those matrices; at least in float32.

        Raises:
            TapertuneError: there is dropout, which is of an input that is not to be had here.
        """
        if self.dropout is not None:
            raise TapertuneError(
                "dropout: this implementation of the model's experts reads whole weights, whose update has no input "
                "to drop from: set dropout=0, or the model's experts_implementation to 'grouped_mm' or 'eager'"
            )
        tensors = {n: t.float() if t.element_size() < 4 else t for n, t in self.stacked(None, among).items()}
        return self.update.delta_weight(tensors) * self.scaling

    def _dropped(self, x: Tensor) -> Tensor:
        return x if self.dropout is None else self.dropout(x)

    def _width(self, x: Tensor) -> int:
        factor = next(f for f in self.update if "d_out" in f.symbols)
        return self.tensors(0)[factor.name].shape[factor.symbols.index("d_out")]


def groups(ends: Tensor) -> Iterator[tuple[int, int, int]]:
    """(index, begin, end) of the groups that have rows."""
    begin = 0
    for index, end in enumerate(ends.tolist()):
        if end > begin:
            yield index, begin, end
        begin = end


def product(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Rows x (n, w) through the matrix of their group, weight (count, v, w) -> (n, v); all through one, where there is
    one alone."""
    if weight.shape[0] == 1:
        return F.linear(x, weight[0])
    unaligned = any(width * x.element_size() % _ALIGNED for width in weight.shape[-2:])
    if _GROUPED is None or x.dtype == torch.float64 or unaligned or not weight.shape[-2]:
        parts = [F.linear(x[a:b], weight[i]) for i, a, b in groups(ends)]
        return torch.cat([*parts, x.new_zeros(x.shape[0] - sum(part.shape[0] for part in parts), weight.shape[-2])])
    return _GROUPED(x, weight.mT, offs=ends)


class _Stack(torch.autograd.Function):
    """Tensors along a new first axis, each in the corner of a common shape."""

    @staticmethod
    def forward(ctx: Any, ends: Tensor | None, shape: tuple[int, ...], *tensors: Tensor) -> Tensor:
        ctx.ends, ctx.shapes = ends, [tensor.shape for tensor in tensors]
        if all(tensor.shape == shape for tensor in tensors):
            return torch.stack(tensors)
        stacked = tensors[0].new_zeros(len(tensors), *shape)
        for place, tensor in zip(stacked.unbind(0), tensors, strict=True):
            _corner(place, tensor.shape).copy_(tensor)
        return stacked

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        count = len(ctx.shapes)
        reached = set(range(count)) if ctx.ends is None else {index for index, _, _ in groups(ctx.ends)}
        needs = ctx.needs_input_grad[2:]
        parts = (
            _corner(part, ctx.shapes[i]) if needs[i] and i in reached else None for i, part in enumerate(grad.unbind(0))
        )
        return None, None, *parts


def _corner(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    for axis, size in enumerate(shape):
        tensor = tensor.narrow(axis, 0, size)
    return tensor
