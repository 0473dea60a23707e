"""A frozen linear layer and an update as one weight, which is kept from pass to pass.

    y = x M' + c,    M = W + s * update

In half precision the sum would round most of a map's update away: there M is ``s * update``, applied beside W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..methods import Update
from ..methods.base import Tensors
from ..methods.mapped import MappedChain
from .dense import dense_weight


def merged_weight(update: Update, weight: Tensor, tensors: Tensors, scaling: float) -> Tensor:
    """M, (d_out, d_in), without gradient and fit for any later pass.

    Args:
        update: a chain in float32 or float64, or one under a map.
        weight: the base layer's.
        tensors: the factors by name.
        scaling: s.
    """
    # tensors made in inference mode could not serve a later backward pass
    with torch.inference_mode(False), torch.no_grad():
        if isinstance(update, MappedChain):
            return dense_weight(update, weight, tensors, scaling)
        return weight + update.delta_weight(tensors) * scaling


def merged(x: Tensor, weight: Tensor, bias: Tensor | None, summed: Tensor) -> Tensor:
    """The layer's output from ``merged_weight``; x (..., d_in) -> (..., d_out). In half precision without gradients."""
    rows = x.reshape(-1, x.shape[-1])
    if weight.dtype in (torch.float16, torch.bfloat16):
        y = F.linear(rows, weight, bias)
        y = torch.addmm(y, rows, summed.T, out=y)
    else:
        y = F.linear(rows, summed, bias)
    return y.view(*x.shape[:-1], weight.shape[0])
