"""The chain as two matrices around its bottleneck.

Vectors and inner factors are composed into the two matrices first: work on weights, not on tokens. Autograd then sees
``x down' up'`` and keeps the input only while ``down`` trains and the r-wide product only while ``up`` does. One
product of that r-wide tensor with the output gradient serves every factor downstream of the bottleneck: for AFLoRA, B,
d and b together, where the factor-by-factor form keeps a d_out-wide tensor a token for b alone.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..methods import Update
from ..methods.base import Tensors


def lowrank(update: Update, x: Tensor, tensors: Tensors, scaling: float) -> Tensor:
    """``scaling * update(x)``; x (..., d_in) -> (..., d_out). Equal to the reference up to rounding.

    The composed factors are cast to x's dtype. An update that is no product of its factors has no bottleneck: it is
    applied in one product.
    """
    if not update.linear:
        return F.linear(x, (update.delta_weight(tensors) * scaling).to(x.dtype))
    down, up = update.lora_factors(tensors)
    if scaling != 1.0:
        up = up * scaling
    return F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype))
