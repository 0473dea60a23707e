"""Which one-node kernel computes a frozen linear layer together with its chain."""

from __future__ import annotations

import torch
from torch import Tensor

from ..methods import Chain
from ..methods.base import Tensors
from .fused import fused


def has_node(chain: Chain) -> bool:
    """Whether some kernel computes base and chain as one node."""
    return chain.linear


def node(
    chain: Chain,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tensors: Tensors,
    scaling: float,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``x W' + bias + scaling * chain(x)`` for a frozen base; arguments as for ``fused``."""
    return fused(chain, x, weight, bias, tensors, scaling, dtype)
