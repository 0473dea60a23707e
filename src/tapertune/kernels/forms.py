"""Frozen matrices around vectors: merged into the base weight for a pass, or low-rank, whichever takes less time."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a layer is computed whose update is merged for the pass.

    Attributes:
        wide: whether backward multiplies the output's gradient with the input first.
        keep: whether the merged weight is kept for backward, rather than made again.
        apart: whether the update is applied by a product of its own, beside the weight: in half precision the sum
            would round most of it away.
    """

    wide: bool
    keep: bool
    apart: bool = False


@dataclass(frozen=True, kw_only=True)
class Work:
    """A pass through one layer whose chain is two frozen matrices around vectors.

    Attributes:
        tokens: rows of the input.
        rank, d_in, d_out: widths.
        trains: whether some vector does.
        input_grad: whether the input wants a gradient.
        half: whether it is computed in half precision.
    """

    tokens: int
    rank: int
    d_in: int
    d_out: int
    trains: bool = True
    input_grad: bool = True
    half: bool = False

    def flops(self, form: Form | None) -> int:
        """Operations of all products of the pass beyond the base layer's, those of a matrix with a vector left out;
        None stands for the low-rank form."""
        return 2 * self._count(form, _Passes(narrow=0, build=0, behind=0, token=0))

    def cost(self, form: Form | None) -> int:
        """The time that a pass takes beyond the base layer, in multiplications."""
        return self._count(form, _HALF if self.half else _SINGLE)

    def _count(self, form: Form | None, passes: _Passes) -> int:
        """Multiplications of all products, with some more a number of what each reads or writes."""
        n, r, d_in, d_out = self.tokens, self.rank, self.d_in, self.d_out
        narrow, behind = r + passes.narrow, d_out * r * passes.behind
        if form is None:
            widths = (d_in + d_out) * (1 + self.input_grad)
            if few(n, r):  # and vectors take no product of their own
                return n * (widths * narrow + d_out * passes.token)
            return n * (widths + d_out * self.trains) * narrow + behind
        count = d_in * d_out * (r + passes.build) * (1 + (self.input_grad and not form.keep))
        if form.apart:
            count += n * d_in * d_out * (1 + self.input_grad)
        if not self.trains:
            return count
        if form.wide:
            return count + d_in * d_out * (n + narrow)
        return count + n * (d_in + d_out) * narrow + behind


class _Passes(NamedTuple):
    """Passes over memory, in multiplications that take as long.

    Attributes:
        narrow: to read or write a number in a product of small rank with the tokens.
        build: to write one of the merged weight.
        behind: to scale an element of B, and to take its gradient from a product that lies across it in memory.
        token: to scale an element of what B makes of few tokens, and to take the vectors' gradients there.
    """

    narrow: int
    build: int
    behind: int
    token: int


# Fitted on one thread: in float32 to BERT layers of widths 384 and 768 with 1024 tokens and ranks from 4 to 1024; in
# bfloat16, where products are the faster part, to widths from 384 to 3072 with 256 to 4096 tokens and ranks from 32.
# ``token`` to 32 to 1024 tokens at ranks 256 and 1024.
_SINGLE = _Passes(narrow=48, build=180, behind=0, token=300)
_HALF = _Passes(narrow=48, build=700, behind=4000, token=1400)

# Below this rank a layer costs about the same in either form; low-rank, it shares its products with others.
LEAST_RANK = 32


def few(tokens: int, rank: int) -> bool:
    """Whether vectors of a chain are better applied to activations than to its matrices, which are larger."""
    return 2 * tokens <= rank


def goes_by_token(tokens: int, rank: int) -> bool:
    """Whether frozen matrices of this rank are better applied factor by factor, whatever the input's size."""
    return rank >= LEAST_RANK and few(tokens, rank)


@functools.cache
def cheapest(work: Work) -> Form | None:
    """The form that takes the least time; None is the low-rank one.

    The merged weight is kept for backward where making it again takes an eighth of the layer's time or more, unless it
    is much larger than the layer's narrower activation.
    """
    if work.rank < LEAST_RANK:
        return None
    keep = work.input_grad and 4 * work.rank >= work.tokens and 2 * max(work.d_in, work.d_out) <= 3 * work.tokens
    narrow, wide = (Form(wide=wide, keep=keep, apart=work.half) for wide in (False, True))
    return min(None, narrow, wide, key=work.cost)
