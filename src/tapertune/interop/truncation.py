"""Updates as two matrices, cut by their singular values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
"""``(down, up)``, of shapes (r, d_in) and (d_out, r): the update is ``up @ down``."""


@dataclass(frozen=True)
class Spectrum:
    """A singular value decomposition, largest value first.

    Attributes:
        u: (d_out, n). s: (n,). v: (n, d_in).
    """

    u: Tensor
    s: Tensor
    v: Tensor

    @cached_property
    def tails(self) -> Tensor:
        """The relative error (Frobenius) that is left when the first k components are kept, k = 0 to n: (n + 1,)."""
        left = self.s.square().flip(0).cumsum(0).flip(0).sqrt()
        return torch.cat([left, left.new_zeros(1)]) / left[0]

    def rank_for(self, error: float) -> int:
        """The smallest rank of at most this relative error."""
        return int((self.tails > error).sum())

    def keep(self, rank: int) -> Pair:
        """The first components, each singular value shared evenly between both sides."""
        root = self.s[:rank].sqrt()
        return root[:, None] * self.v[:rank], self.u[:, :rank] * root


def spectrum_of_delta(delta: Tensor) -> Spectrum:
    """The decomposition of an update (d_out, d_in), without what is below its precision."""
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    used = s > s[:1] * max(delta.shape) * torch.finfo(s.dtype).eps
    return Spectrum(u[:, used], s[used], v[used])


def spectrum_of_product(pair: Pair) -> Spectrum:
    """The decomposition of ``up @ down`` without building it."""
    down, up = pair
    left, right = torch.linalg.qr(up), torch.linalg.qr(down.T)
    core = spectrum_of_delta(left.R @ right.R.T)
    return Spectrum(left.Q @ core.u, core.s, core.v @ right.Q.T)


def product_norm(pair: Pair) -> float:
    """The Frobenius norm of ``up @ down`` without building it."""
    down, up = pair
    if not down.shape[0]:
        return 0.0
    return (torch.linalg.qr(up).R @ torch.linalg.qr(down.T).R.T).norm().item()


def relative_error(stored: Pair, exact: Pair) -> float:
    """How far the product of one pair is from that of another, relative to the latter (Frobenius)."""
    whole = product_norm(exact)
    # the difference of two products as one product: thin, whatever the module's widths
    down = torch.cat([exact[0], -stored[0].to(exact[0].dtype)])
    up = torch.cat([exact[1], stored[1].to(exact[1].dtype)], 1)
    return product_norm((down, up)) / whole if whole else 0.0


def in_float32(pair: Pair) -> Pair:
    return pair[0].float(), pair[1].float()


def cuts(spectrum: Spectrum, error: float) -> Iterator[Pair]:
    """The smallest pair in float32 of that relative error, and a few larger ones where rounding adds to the error."""
    first = spectrum.rank_for(error)
    for rank in range(first, min(first + 4, len(spectrum.s)) + 1):
        yield in_float32(spectrum.keep(rank))
