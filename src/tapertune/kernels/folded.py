"""The chain as two matrices around its narrowest place.

The vectors and inner factors are folded into the two matrices first: work on weights, not on tokens. Autograd then
sees ``x down' up'`` and keeps the input only while ``down`` trains and the r-wide product only while ``up`` does. One
product of that r-wide tensor with the output gradient serves every factor behind the narrowest place: for AFLoRA, B, d
and b together, where the factor-by-factor form keeps a d_out-wide tensor a token for b alone.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..methods import Chain
from ..methods.base import Tensors


def folded(chain: Chain, x: Tensor, tensors: Tensors, scaling: float) -> Tensor:
    """``scaling * chain(x)``; x (..., d_in) -> (..., d_out). Equal to the reference up to rounding.

    The folded factors are cast to x's dtype. A chain that is no product of its factors has no narrow place: its dense
    update is applied in one product.
    """
    if not chain.linear:
        return F.linear(x, (chain.delta_weight(tensors) * scaling).to(x.dtype))
    down, up = chain.lora_factors(tensors)
    if scaling != 1.0:
        up = up * scaling
    return F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype))
