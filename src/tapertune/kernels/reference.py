"""The update factor by factor, as the equations are written."""

from __future__ import annotations

from torch import Tensor

from ..methods import Update
from ..methods.base import Tensors


def reference(update: Update, x: Tensor, tensors: Tensors, scaling: float) -> Tensor:
    """``scaling * update(x)``; x (..., d_in) -> (..., d_out). Autograd keeps what each factor needs, d_out-wide too."""
    return update.apply(x, tensors) * scaling
