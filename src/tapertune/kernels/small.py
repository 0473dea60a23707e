"""A frozen linear layer and a chain in torch's own operations, for inputs so small that calls are what a step costs.

    y = x W' + c + s ((x * mask) down') up'

Autograd answers these without Python, where a node of our own takes as long as a dozen calls. The input is kept for
backward, being small. With few tokens for its rank (``choice.few``) the chain is taken factor by factor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..methods import Chain
from ..methods.base import Tensors
from .choice import LEAST_RANK, few
from .dropout import under_mask

# Elements of an input up to which this is the quicker form on a processor: measured on one thread, at widths of 384 and
# 768. Half precision is quicker in the products, and so is slower in the rest for longer; up to the lower of its bounds
# a call of a product in bfloat16 takes longer than all of float32's.
_MOST = 3 << 14
_MOST_HALF = 5 << 15
# An accelerator waits for calls at far larger inputs: a megabyte in half precision is what is given for it.
_MOST_AWAY = 1 << 19


def most_elements(kind: str, half: bool) -> int:
    """How many elements a small input has at most, by type of device and whether it is computed in half precision."""
    if kind != "cpu":
        return _MOST_AWAY
    return _MOST_HALF if half else _MOST


def is_small(x: Tensor) -> bool:
    """Whether a pass over x takes less time than the calls of a node."""
    kind = x.device.type
    half = x.element_size() == 2 or (kind == "cpu" and torch.is_autocast_enabled(kind))
    return x.numel() <= most_elements(kind, half)


def plain(
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
        chain: a linear chain.
        x: of the base's dtype, unless autocast casts the base.
        weight, bias: of the base layer.
        tensors: the chain's factors by name, of x's dtype or wider.
        scaling: on the chain's output.
        mask: ones and zeros (uint8) in the shape of x.
    """
    rows = x.reshape(-1, x.shape[-1])
    y = _beside(chain, F.linear(rows, weight, bias), under_mask(rows, mask), tensors, scaling)
    return y.view(*x.shape[:-1], weight.shape[0])


def _beside(chain: Chain, y: Tensor, x: Tensor, tensors: Tensors, scaling: float) -> Tensor:
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
    """The dtype of a chain's products: x's, or that of its factors where a call of x's takes longer, or where what is
    cast would be kept beside few tokens."""
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return x.dtype
    return dtype if x.numel() <= _MOST and min(x.shape[0], rank) <= LEAST_RANK else x.dtype
