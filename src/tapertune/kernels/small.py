"""A frozen linear layer and a chain in torch's own operations, for inputs so small that calls are what a step costs.

    y = x W' + c + s ((x * mask) down') up'

Autograd answers these without Python, where a node of our own takes as long as a dozen calls. The input is kept for
backward, being small.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..methods import Chain
from ..methods.base import Tensors
from .dropout import masked

# Elements of an input up to which this is the quicker form on a processor: measured on one thread, at widths of 384 and
# 768. Half precision is quicker in the products, and so is slower in the rest for longer; up to the lower of its bounds
# a call of a product in bfloat16 takes longer than all of float32's.
_MOST = 1 << 15
_MOST_HALF = 1 << 17
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
        tensors: the chain's factors by name; they are cast to x's dtype.
        scaling: on the chain's output.
        mask: ones and zeros (uint8) in the shape of x.
    """
    down, up = chain.lora_factors(tensors)
    rows = x.reshape(-1, x.shape[-1])
    seen = rows if mask is None else masked(rows, mask.view(rows.shape))
    y = F.linear(rows, weight, bias)
    if down.dtype != x.dtype:
        if x.device.type == "cpu" and x.numel() <= _MOST and not torch.is_autocast_enabled("cpu"):
            delta = F.linear(F.linear(seen.to(down.dtype), down), up)
            return torch.add(y, delta, alpha=scaling).to(x.dtype).view(*x.shape[:-1], weight.shape[0])
        down, up = down.to(x.dtype), up.to(x.dtype)
    y = torch.addmm(y, F.linear(seen, down), up.T, alpha=scaling)
    return y.view(*x.shape[:-1], weight.shape[0])
