"""A weight plus an update under LoRAN's own map, and the update's gradients, in compiled code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..methods.base import Tensors
from ..methods.loran import Sinter
from ..methods.mapped import MappedChain
from .compiled import Compiled, compiled_for

# Beyond this rank multiplying the factors out is most of the work, and torch's products are the faster ones.
_MOST_RANK = 32


class CompiledSinter:
    """``W + s f(B A)`` in one pass over W.

    Args:
        compiled: the code.
        function: f.
        names: of B and A.
        tensors: B and A by name.
    """

    def __init__(self, compiled: Compiled, function: Sinter, names: tuple[str, str], tensors: Tensors) -> None:
        library, dtype = compiled
        self._call: Any = getattr(library, f"{dtype}_sinter")
        self._map, self._names = function, names
        self._b, self._a = (tensors[name].contiguous() for name in names)

    def put(
        self,
        weight: Tensor,
        scaling: float,
        out: Tensor | None,
        grad: Tensor | None = None,
        into: Mapping[str, Tensor] | None = None,
    ) -> None:
        """The sum into ``out``; gradients of the factors into ``into``.

        Args:
            weight: (d_out, d_in).
            scaling: s.
            out: in the shape of weight; None where the sum is not wanted.
            grad: of the sum; is overwritten.
            into: by name of the factors whose gradients are wanted.
        """
        (n, w), r = weight.shape, self._a.shape[0]
        into = into or {}
        db, da = (into.get(name) for name in self._names)
        places = (None if out is None else weight, out, grad, db, da)
        self._call(
            n,
            w,
            r,
            self._b.data_ptr(),
            self._a.data_ptr(),
            self._map.amplitude,
            self._map.omega,
            scaling,
            *(None if place is None else place.data_ptr() for place in places),
        )


def compiled_sinter(chain: MappedChain, weight: Tensor, tensors: Tensors) -> CompiledSinter | None:
    """The compiled form, where there is one for this chain and these tensors."""
    matrices, offsets, function, _ = chain.parts
    if not isinstance(function, Sinter) or offsets or len(matrices) != 2 or not weight.is_contiguous():
        return None
    b, a = matrices
    if tensors[a.name].shape[0] > _MOST_RANK:
        return None
    compiled = compiled_for(weight, *tensors.values())
    return None if compiled is None else CompiledSinter(compiled, function, (b.name, a.name), tensors)
