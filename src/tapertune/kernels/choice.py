"""Which one-node kernel computes a frozen linear layer together with its chain.

A chain under a map has one. A product of factors goes around its narrowest place (``fused``); where its matrices are
frozen, it may be folded into the base weight instead (``vectors``), which is chosen by what either would cost.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..methods import Chain
from ..methods.base import Tensors
from ..methods.mapped import MappedChain
from .dense import dense
from .fused import fused
from .vectors import Form, TwoMatrices, folded_vectors, two_matrices


def has_node(chain: Chain) -> bool:
    """Whether some kernel computes base and chain as one node."""
    return chain.linear or isinstance(chain, MappedChain)


def joins(chain: Chain, tensors: Tensors, x: Tensor) -> bool:
    """Whether the form chosen for this chain, at this many tokens, can be in one node with other layers' chains."""
    return chain.linear and _chosen(chain, tensors, x) is None


def by_token(chain: Chain, tensors: Tensors, x: Tensor) -> bool:
    """Whether a chain of frozen matrices is to be applied to x factor by factor, x having few tokens for its rank."""
    rank = tensors[chain.names[0]].shape[0]
    if rank < LEAST_RANK or not few(x.numel() // max(x.shape[-1], 1), rank):
        return False
    return two_matrices(chain, tensors) is not None


def few(tokens: int, rank: int) -> bool:
    """Whether vectors of a chain are better applied to activations than to its matrices, which are larger."""
    return 2 * tokens <= rank


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
    if isinstance(chain, MappedChain):
        return dense(chain, x, weight, bias, tensors, scaling)
    chosen = _chosen(chain, tensors, x)
    if chosen is None:
        return fused(chain, x, weight, bias, tensors, scaling, dtype)
    factors, form = chosen
    return folded_vectors(x, weight, bias, factors, scaling, form)


def _chosen(chain: Chain, tensors: Tensors, x: Tensor) -> tuple[TwoMatrices, Form] | None:
    """What to fold and how, or None for the low-rank form."""
    if tensors[chain.names[0]].shape[0] < LEAST_RANK:
        return None  # known without a look at the rest
    factors = two_matrices(chain, tensors)
    if factors is None:
        return None
    grad = torch.is_grad_enabled()
    form = cheapest(
        Work(
            tokens=x.numel() // max(x.shape[-1], 1),
            rank=factors.a.shape[0],
            d_in=x.shape[-1],
            d_out=factors.b.shape[0],
            trains=grad and any(vector is not None and vector.requires_grad for vector in (factors.u, factors.v)),
            input_grad=grad and x.requires_grad,
            half=x.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(x.device.type),
        )
    )
    return None if form is None else (factors, form)


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
        build: to write one of the folded weight.
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

# Below this rank a layer costs about the same in either form; low-rank, it is in one node with its siblings.
LEAST_RANK = 32


@functools.cache
def cheapest(work: Work) -> Form | None:
    """The form that takes the least time; None is the low-rank one.

    The folded weight is kept for backward where making it again takes an eighth of the layer's time or more, unless it
    is much larger than the layer's narrower activation.
    """
    if work.rank < LEAST_RANK:
        return None
    keep = work.input_grad and 4 * work.rank >= work.tokens and 2 * max(work.d_in, work.d_out) <= 3 * work.tokens
    narrow, wide = (Form(wide=wide, keep=keep, apart=work.half) for wide in (False, True))
    return min(None, narrow, wide, key=work.cost)
