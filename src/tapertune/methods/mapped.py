"""A chain under an elementwise map of its weight product: the update is dense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TapertuneError
from .base import Init, Matrix, Sizes, Tensors, Update


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


class Parts(NamedTuple):
    """What a mapped chain is made of; attributes as its arguments."""

    matrices: tuple[Matrix, ...]
    offsets: tuple[Offset, ...]
    function: Map
    widths: dict[str, int]


class MappedChain(Update):
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
        self.factors = (*reversed(matrices), *offsets)
        self.names = tuple(factor.name for factor in self.factors)
        self.parts = Parts(matrices, offsets, function if isinstance(function, Map) else Map(function), widths)

    @property
    def widths(self) -> dict[str, int]:
        return self.parts.widths

    @property
    def rows(self) -> str:
        """Name of the factor whose rows are the update's: B."""
        return self.parts.matrices[0].name

    def describe(self) -> str:
        inside = " ".join(m.name for m in self.parts.matrices[:2])
        rest = "".join(f" {m.name}" for m in self.parts.matrices[2:])
        return f"f({inside}){rest}" + ("" if not self.parts.offsets else " with offsets")

    def apply(self, x: Tensor, tensors: Tensors) -> Tensor:
        return F.linear(x, self.delta_weight(tensors).to(x.dtype))

    def delta_weight(self, tensors: Tensors) -> Tensor:
        """The dense update (d_out, d_in), at least in float32: the map's fine structure is lost below that."""
        first = next(iter(tensors.values()))
        with torch.autocast(first.device.type, enabled=False):
            return self.evaluate({name: widened(tensor) for name, tensor in tensors.items()})

    def evaluate(self, tensors: Tensors) -> Tensor:
        """``delta_weight`` of factors in float32 or wider, outside autocast; or its rows that belong to rows of B."""
        matrices, offsets, function, _ = self.parts
        b, a, *later = (tensors[matrix.name] for matrix in matrices)
        m = b @ a
        for i in range(max(len(later), 1)):
            m = function(m)
            if later:
                m = m @ later[i]
            if offsets:
                m = m + tensors[offsets[i].name].unsqueeze(-2)
        return m

    def lora_factors(self, tensors: Tensors) -> tuple[Tensor, Tensor]:
        raise TapertuneError("an update under an elementwise map has no lossless LoRA form")


def widened(tensor: Tensor) -> Tensor:
    """In float32 what is narrower."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
