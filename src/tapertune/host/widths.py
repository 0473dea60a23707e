"""How wide a base layer is, as a matrix (d_out, d_in): whatever the layout of its weight."""

from __future__ import annotations

import math
from typing import Any, cast

from peft.tuners.tuners_utils import _get_in_out_features
from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def widths_of(base: nn.Module) -> tuple[int, int]:
    """(d_in, d_out): of an embedding, tokens and width; of a convolution, what one output reads, and output channels;
    of torch's attention, those of its input projection."""
    if isinstance(base, CONVOLUTIONS):
        return base.in_channels // base.groups * math.prod(base.kernel_size), base.out_channels
    d_in, d_out = cast(Any, _get_in_out_features(base))
    return int(d_in), int(d_out)


def flops_per_vector(module: nn.Module) -> int:
    """Operations of a frozen layer for one vector of its input: a token, or a position of a convolution's output. An
    embedding copies a row."""
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    d_in, d_out = widths_of(module)
    if isinstance(module, nn.MultiheadAttention):
        return 2 * (d_in * d_out + module.embed_dim**2)
    return 2 * d_in * d_out
