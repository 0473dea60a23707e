"""Dropout of an adapter's input, a tenth of the usual cost on a processor.

One random 64-bit word serves eight elements, so that the probability is a multiple of 1/128: 0.1 is 13/128, and the
scale 128/115 fits it. The mask is one byte an element. The words come from torch's generator: saved with it, and the
same for every kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .selection import uncompiled
from .transforms import transformed

_LOW_SEVEN = 0x7F7F7F7F7F7F7F7F
_EACH_BYTE = 0x0101010101010101


def dropped_of_128(p: float) -> int:
    """How many of 128 elements go, for a probability between 0 and 1; never none, and never all."""
    return min(max(round(128 * p), 1), 127)


def keep_scale(p: float) -> float:
    """What the kept elements are multiplied by."""
    return 128 / (128 - dropped_of_128(p))


@uncompiled  # which may give back bytes as words
def keep_mask(like: Tensor, p: float) -> Tensor:
    """A new mask of ones and zeros (uint8) in the shape of ``like``."""
    count = like.numel()
    words = torch.empty((count + 7) // 8, dtype=torch.int64, device=like.device).random_(-(2**63), None)
    # in each byte, seven random bits plus a constant carry into the eighth where the element stays
    words.bitwise_and_(_LOW_SEVEN).add_((128 - dropped_of_128(p)) * _EACH_BYTE)
    words.bitwise_right_shift_(7).bitwise_and_(_EACH_BYTE)
    return words.view(torch.uint8)[:count].view(like.shape)


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """``x * mask``; differentiable in x."""
    return mask.to(x.dtype).mul_(x)


def under_mask(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Rows (n, w) where a mask of as many elements leaves them; all of them without one."""
    return rows if mask is None else masked(rows, mask.view(rows.shape))


class InputDropout(nn.Dropout):
    """``x * mask / keep`` while training, for the kernels that do not have the mask inside."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return input
        # a compiler draws inside the kernels that it makes, a transform may draw for each example
        if torch.compiler.is_compiling() or transformed():
            return F.dropout(input, dropped_of_128(self.p) / 128)
        return self.under(input, keep_mask(input, self.p))

    def under(self, x: Tensor, mask: Tensor) -> Tensor:
        """Dropout with a mask that is given."""
        return masked(x, mask) * keep_scale(self.p)
