"""A chain under an elementwise map of its weight product: the update is dense, and so are its costs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TapertuneError
from .base import Chain, Flops, Init, Matrix, Sizes, Tensors


@dataclass(frozen=True)
class Offset:
    """A row added to a weight product after a map: shape (n,)."""

    name: str
    n: str
    init: Init

    @property
    def symbols(self) -> tuple[str, ...]:
        return (self.n,)

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        return (sizes[self.n],)


class Map:
    """An elementwise map f.

    Args:
        function: f, differentiable.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, m: Tensor) -> Tensor:
        return self.function(m)

    def apply_(self, m: Tensor) -> Tensor:
        """``f(m)`` outside autograd; m may be overwritten."""
        return self(m)

    def pull_(self, m: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """``f(m)``, and ``grad`` times ``f'(m)``; both arguments may be overwritten. Autograd's, unless a map has a
        closed form, which is faster."""
        with torch.enable_grad():
            m = m.detach().requires_grad_()
            value = self(m)
        (pulled,) = torch.autograd.grad(value, m, grad)
        return value.detach(), pulled


class MappedChain(Chain):
    """``M = B A``, then for each further matrix P (and offset b, where there is one) ``M <- f(M) P + b``.

    Row i of the update follows from row i of B and the other factors.

    Args:
        matrices: from output to input: B, A, P1, P2, ...; the last one has d_in columns.
        offsets: one for each map, or none. Without a P there is one map, of ``B A`` itself.
        function: f, elementwise.
        widths: inner widths by symbol.
    """

    linear = False

    def __init__(
        self,
        matrices: tuple[Matrix, ...],
        offsets: tuple[Offset, ...],
        function: Callable[[Tensor], Tensor],
        widths: dict[str, int],
    ) -> None:
        self._hold((*reversed(matrices), *offsets))
        object.__setattr__(self, "parts", (matrices, offsets, _as_map(function), widths))

    parts: tuple[tuple[Matrix, ...], tuple[Offset, ...], Map, dict[str, int]]

    @property
    def widths(self) -> dict[str, int]:
        return self.parts[3]

    def describe(self) -> str:
        inside = " ".join(m.name for m in self.parts[0][:2])
        rest = "".join(f" {m.name}" for m in self.parts[0][2:])
        return f"f({inside}){rest}" + ("" if not self.parts[1] else " with offsets")

    def delta_weight(self, tensors: Tensors) -> Tensor:
        """The dense update (d_out, d_in), at least in float32: the map's fine structure is lost below that."""
        first = next(iter(tensors.values()))
        with torch.autocast(first.device.type, enabled=False):
            return self.update({name: widened(tensor) for name, tensor in tensors.items()})

    def update(self, tensors: Tensors, out: Tensor | None = None) -> Tensor:
        """``delta_weight`` of factors in float32 or wider, outside autocast; or its rows that belong to rows of B.

        Args:
            tensors: the factors.
            out: memory of the update's shape that may be worked in, outside autograd.
        """
        matrices, offsets, function, _ = self.parts
        m = self._inner(tensors, out)
        for i in range(max(len(matrices) - 2, 1)):
            m = function(m) if out is None else function.apply_(m)
            if len(matrices) > 2:
                m = m @ tensors[matrices[i + 2].name]
            if offsets:
                m = m + tensors[offsets[i].name]
        return m

    def _inner(self, tensors: Tensors, out: Tensor | None) -> Tensor:
        b, a, *later = (tensors[matrix.name] for matrix in self.parts[0])
        return b @ a if later or out is None else torch.mm(b, a, out=out)

    @property
    def rows(self) -> str:
        """Name of the factor whose rows are the update's: B."""
        return self.parts[0][0].name

    def pull(self, tensors: Tensors, grad: Tensor, into: Tensors, scaling: float, out: Tensor | None = None) -> Tensor:
        """``update``; and ``scaling`` times the gradients of factors, given the update's, are added in place.

        Args:
            tensors: as for ``update``.
            grad: the gradient of the update; may be overwritten.
            into: what to add to, by name of the factors whose gradients are wanted; for B, in the rows that are given.
            scaling: on the gradients.
            out: as for ``update``.
        """
        matrices, offsets, function, _ = self.parts
        if len(matrices) > 2:
            with torch.enable_grad():
                leaves = {name: tensor.detach().requires_grad_(name in into) for name, tensor in tensors.items()}
                delta = self.update(leaves)
            pulled = torch.autograd.grad(delta, [leaves[name] for name in into], grad)
            for total, one in zip(into.values(), pulled, strict=True):
                total.add_(one, alpha=scaling)
            return delta.detach()
        if offsets and offsets[0].name in into:
            into[offsets[0].name].add_(grad.sum(0), alpha=scaling)
        delta, grad = function.pull_(self._inner(tensors, out), grad)
        if offsets:
            delta = delta + tensors[offsets[0].name]
        b, a = (matrix.name for matrix in matrices[:2])
        for name, left, right in ((b, grad, tensors[a].T), (a, tensors[b].T, grad)):
            if name in into:  # in place; unlike addmm_, operation counters see it
                torch.addmm(into[name], left, right, alpha=scaling, out=into[name])
        return delta

    def apply(self, x: Tensor, tensors: Tensors) -> Tensor:
        return F.linear(x, self.delta_weight(tensors).to(x.dtype))

    def lora_factors(self, tensors: Tensors) -> tuple[Tensor, Tensor]:
        raise TapertuneError("an update under an elementwise map has no lossless LoRA form")

    def flops_per_token(
        self,
        sizes: Sizes,
        trains: Collection[str] | None = None,
        *,
        input_grad: bool = True,
        form: Literal["chain", "folded"] = "chain",
    ) -> Flops:
        """Products with the update; building it costs the same for any tokens: ``flops_per_pass``.

        ``chain`` applies the update by itself, one dense product in each pass. ``folded`` counts what the default
        kernel runs: the update rides on the base weight, and only its gradient is a product of its own.
        """
        dense = 2 * sizes["d_in"] * sizes["d_out"]
        gradient = dense * bool(self.names if trains is None else trains)
        return Flops(0, 0, gradient) if form == "folded" else Flops(dense, dense * input_grad, gradient)

    def flops_per_pass(
        self,
        sizes: Sizes,
        trains: Collection[str] | None = None,
        *,
        input_grad: bool = True,
        form: Literal["chain", "folded"] = "chain",
    ) -> Flops:
        """Operations that one forward and backward pass of any number of tokens adds to ``flops_per_token``: the update
        is multiplied out, by ``folded`` in both passes, and its gradient taken to the factors."""
        trains = self.names if trains is None else trains
        (b, a, *later), offsets, _, _ = self.parts
        first = 2 * sizes["d_out"] * sizes[b.n_in] * sizes[a.n_in]
        build, gradient = first, first * ((b.name in trains) + (a.name in trains))
        needed = b.name in trains or a.name in trains
        for i, matrix in enumerate(later):
            product = 2 * sizes["d_out"] * sizes[matrix.n_out] * sizes[matrix.n_in]
            build += product
            gradient += product * (needed + (matrix.name in trains))
            needed = needed or matrix.name in trains or (bool(offsets) and offsets[i].name in trains)
        again = form == "folded" and (input_grad or bool(trains))
        return Flops(build, build * again, gradient)

    def saved_bytes_per_token(self, sizes: Sizes, trains: Collection[str] | None = None, itemsize: int = 4) -> int:
        return itemsize * sizes["d_in"] * bool(self.names if trains is None else trains)


def widened(tensor: Tensor) -> Tensor:
    """In float32 what is narrower."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _as_map(function: Callable[[Tensor], Tensor]) -> Map:
    return function if isinstance(function, Map) else Map(function)
