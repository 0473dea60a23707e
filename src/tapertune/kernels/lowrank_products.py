"""Products of activations (n, w) with narrow factors (r, w), in torch's own operations or compiled (``native``).

Both do the same operations. torch's read an activation once for each product; the compiled ones once for all that are
wanted of it, and make an input again on the way to its product. They serve float32 and float64 on a processor. Where
something looks on at torch's operations (a counter, a tracer), torch's are called, so that it sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .compiled import Compiled, compiled_for
from .dropout import under_mask
from .recompute import Recomputed


class Factor(NamedTuple):
    """``scaling * diag(middle) matrix`` of a matrix (r, w), in any layout."""

    matrix: Tensor
    middle: Tensor | None = None
    scaling: float = 1.0


class Products(Protocol):
    """What a node of low-rank layers asks for; rows of activations lie one after another."""

    def project(self, x: Tensor, mask: Tensor | None, matrix: Tensor) -> Tensor:
        """``(x * mask) matrix'``: (n, w) and (r, w) -> (n, r)."""
        ...

    def expand(self, z: Tensor, factor: Factor, mask: Tensor | None = None) -> Tensor:
        """``(z factor) * mask``: (n, r) and (r, w) -> (n, w)."""
        ...

    def linear_plus_lowrank(self, z: Tensor, factor: Factor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``z factor + x weight' + bias``: (n, r), (r, w), (n, v), (w, v) and (w,) -> (n, w)."""
        ...

    def input_and_factor_grads(self, dy: Tensor, factor: Factor, u: Tensor | None, z: Tensor | None) -> Tensor | None:
        """``dy factor'`` into u (n, r), and ``scaling * z' dy`` (r, w); each where it is wanted."""
        ...

    def weight_grad(self, u: Tensor, x: Tensor | Recomputed, mask: Tensor | None) -> Tensor:
        """``u' (x * mask)``: (n, r) and (n, w) -> (r, w)."""
        ...


class _Torch:
    def project(self, x: Tensor, mask: Tensor | None, matrix: Tensor) -> Tensor:
        return under_mask(x, mask).mm(matrix.T)

    def expand(self, z: Tensor, factor: Factor, mask: Tensor | None = None) -> Tensor:
        matrix, middle, scaling = factor
        wide = (z if middle is None else z * middle).mm(matrix)
        return under_mask(wide if scaling == 1.0 else wide.mul_(scaling), mask)

    def linear_plus_lowrank(self, z: Tensor, factor: Factor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        matrix, middle, scaling = factor
        y = x.mm(weight.T) if bias is None else torch.addmm(bias, x, weight.T)
        # in place; unlike addmm_, operation counters see it
        return torch.addmm(y, z if middle is None else z * middle, matrix, alpha=scaling, out=y)

    def input_and_factor_grads(self, dy: Tensor, factor: Factor, u: Tensor | None, z: Tensor | None) -> Tensor | None:
        matrix, middle, scaling = factor
        # this orientation of the product is several times faster than its transpose for a narrow rank
        grad = None if z is None else torch.addmm(matrix, z.T, dy, beta=0, alpha=scaling)
        if u is not None:
            torch.addmm(u, dy, matrix.T, beta=0, alpha=scaling, out=u)
            if middle is not None:
                u.mul_(middle)
        return grad

    def weight_grad(self, u: Tensor, x: Tensor | Recomputed, mask: Tensor | None) -> Tensor:
        rows = x.make() if isinstance(x, Recomputed) else x
        return u.T.mm(under_mask(rows.reshape(u.shape[0], -1), mask))


class _Native:
    def __init__(self, compiled: Compiled) -> None:
        library, dtype = compiled
        self._project: Any = getattr(library, f"{dtype}_project")
        self._expand: Any = getattr(library, f"{dtype}_expand")
        self._input_and_factor_grads: Any = getattr(library, f"{dtype}_input_and_factor_grads")
        self._weight_grad: Any = getattr(library, f"{dtype}_weight_grad")

    def project(self, x: Tensor, mask: Tensor | None, matrix: Tensor) -> Tensor:
        (n, w), r = x.shape, matrix.shape[0]
        z = x.new_empty(n, r)
        self._project(
            n, w, r, x.data_ptr(), x.stride(0), _at(mask), matrix.data_ptr(), *matrix.stride(), z.data_ptr(), r
        )
        return z

    def expand(self, z: Tensor, factor: Factor, mask: Tensor | None = None) -> Tensor:
        return self._expand_onto(None, z, factor, mask)

    def linear_plus_lowrank(self, z: Tensor, factor: Factor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # the base's product last: it adds to what is there as it would have to a bias
        y = self._expand_onto(bias, z, factor, None)
        return torch.addmm(y, x, weight.T, out=y)

    def _expand_onto(self, bias: Tensor | None, z: Tensor, factor: Factor, mask: Tensor | None) -> Tensor:
        (n, r), w = z.shape, factor.matrix.shape[1]
        z, y = _in_order(z), z.new_empty(n, w)
        self._expand(n, w, r, z.data_ptr(), z.stride(0), *_parts(factor), _at(bias), _at(mask), y.data_ptr(), w)
        return y

    def input_and_factor_grads(self, dy: Tensor, factor: Factor, u: Tensor | None, z: Tensor | None) -> Tensor | None:
        (n, w), r = dy.shape, factor.matrix.shape[0]
        grad = None if z is None else dy.new_empty(r, w)
        dy = _in_order(dy)
        self._input_and_factor_grads(
            n,
            w,
            r,
            dy.data_ptr(),
            dy.stride(0),
            *_parts(factor),
            *((None, 0) if u is None else (u.data_ptr(), u.stride(0))),
            *((None, 0) if z is None else (z.data_ptr(), z.stride(0))),
            _at(grad),
        )
        return grad

    def weight_grad(self, u: Tensor, x: Tensor | Recomputed, mask: Tensor | None) -> Tensor:
        source, normed, gelu = _source(x)
        (n, r), w = u.shape, source.shape[-1]
        grad = u.new_empty(r, w)
        rows = _in_order(source.reshape(n, w))
        self._weight_grad(
            n,
            w,
            r,
            u.data_ptr(),
            u.stride(0),
            rows.data_ptr(),
            rows.stride(0),
            *([_at(other) for other in normed] or [None] * 4),
            gelu,
            _at(mask),
            grad.data_ptr(),
        )
        return grad


def _source(x: Tensor | Recomputed) -> tuple[Tensor, Sequence[Tensor], bool]:
    """What to read, a layer norm's statistics and weights to apply to it, and whether a GELU is to be."""
    if not isinstance(x, Recomputed):
        return x, (), False
    before = x.activated()
    if before is not None:
        return before, (), True
    parts = x.normed()
    return (x.make(), (), False) if parts is None else (parts[0], parts[1:], False)


def _in_order(rows: Tensor) -> Tensor:
    """With the elements of each row one after another."""
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _at(tensor: Tensor | None) -> int | None:
    assert tensor is None or tensor.is_contiguous(), "compiled code takes its elements one after another"
    return None if tensor is None else tensor.data_ptr()


def _parts(factor: Factor) -> tuple[Any, ...]:
    matrix, middle, scaling = factor
    return matrix.data_ptr(), *matrix.stride(), _at(middle), scaling


_TORCH = _Torch()
_NATIVE: dict[str, _Native] = {}

# Beyond this rank a product is large enough for torch's.
_MOST_RANK = 32
# An activation of fewer elements lies in the core's own cache, where torch's products are as quick.
_LEAST_ELEMENTS = 1 << 14


def products(rows: Tensor, *matrices: Tensor) -> Products:
    """What multiplies these activations with these matrices."""
    if rows.numel() < _LEAST_ELEMENTS or rows.stride(1) != 1:
        return _TORCH
    if max(matrix.shape[0] for matrix in matrices) > _MOST_RANK:
        return _TORCH
    compiled = compiled_for(rows, *matrices)
    if compiled is None:
        return _TORCH
    native = _NATIVE.get(compiled.dtype)
    if native is None:
        native = _NATIVE[compiled.dtype] = _Native(compiled)
    return native
