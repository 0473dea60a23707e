"""A frozen linear layer and a chain in torch's own operations, for inputs so small that calls are what a step costs.

    y = x W' + c + s ((x * mask) down') up'

Autograd answers these without Python, where a node of our own takes as long as a dozen calls. The input is kept for
backward, being small. With few tokens for its rank (``forms.few``) the chain is taken factor by factor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..methods import Chain
from ..methods.base import Tensors
from .dropout import under_mask
from .forms import LEAST_RANK, few
from .paths import most_elements


def eager(
    chain: Chain,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tensors: Tensors,
    scaling: float,
    mask: Tensor | None = None,
) -> Tensor:
    """``x W' + bias + scaling * chain(x * mask)``; x (..., d_in) -> (..., d_out).

    Args:
        chain: a product of factors.
        x: of the base's dtype, unless autocast casts the base.
        weight, bias: of the base layer.
        tensors: the chain's factors by name, of x's dtype or wider.
        scaling: on the chain's output.
        mask: ones and zeros (uint8) in the shape of x.
    """
    rows = x.reshape(-1, x.shape[-1])
    y = _plus_chain(chain, F.linear(rows, weight, bias), under_mask(rows, mask), tensors, scaling)
    return y.view(*x.shape[:-1], weight.shape[0])


def _plus_chain(chain: Chain, y: Tensor, x: Tensor, tensors: Tensors, scaling: float) -> Tensor:
    """``y + scaling * chain(x)`` in the dtype of y."""
    first = tensors[chain.names[0]]
    tokens, rank = x.shape[0], first.shape[0]
    dtype = _computed_in(x, rank, first.dtype)
    if few(tokens, rank):
        if dtype != first.dtype:
            tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        return torch.add(y, chain.apply(x.to(dtype), tensors), alpha=scaling).to(y.dtype)
    down, up = chain.lora_factors(tensors)
    if dtype == y.dtype:
        return torch.addmm(y, F.linear(x, down.to(dtype)), up.to(dtype).T, alpha=scaling)
    return torch.add(y, F.linear(F.linear(x.to(dtype), down), up), alpha=scaling).to(y.dtype)


def _computed_in(x: Tensor, rank: int, dtype: torch.dtype) -> torch.dtype:
    """The dtype of a chain's products: x's, or that of its factors where a call of x's takes longer (up to the size
    that is small in float32), or where what is cast would be kept beside few tokens."""
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return x.dtype
    return dtype if x.numel() <= most_elements("cpu", half=False) and min(x.shape[0], rank) <= LEAST_RANK else x.dtype
