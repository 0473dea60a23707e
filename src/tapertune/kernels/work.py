"""The operations that a training pass takes in adapted layers, as their kernels compute them.

What is counted is what ``torch.utils.flop_counter`` counts: products of matrices, beyond those of the base layer.
Products of a matrix with a vector and elementwise work are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..methods import Chain
from .choice import LEAST_RANK, Work, cheapest, few
from .selection import ONE_NODE
from .vectors import Form, around_vectors

Way = Literal["chain", "folded"]


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """An adapted layer, in numbers.

    Attributes:
        chain: its chain.
        sizes: widths by symbol.
        trains: names of the factors that train.
        kernel: what computes it, a name in ``KERNELS``.
        half: whether it computes in half precision.
        dropout: whether its kernel drops elements of the input.
        one_weight: whether base and update have been added up to one weight (``host.folding``).
        small: elements of an input up to which it is computed without a node (``small``).
    """

    chain: Chain
    sizes: Mapping[str, int]
    trains: frozenset[str]
    kernel: str = "fused"
    half: bool = False
    dropout: bool = False
    one_weight: bool = False
    small: int = 0

    def form(self, tokens: int, input_grad: bool) -> Form | None:
        """How a node folds it, by the rules of ``choice``; None where it does not."""
        if self.dropout or not self._frozen_around_vectors:
            return None
        return cheapest(self._work(tokens, input_grad))

    def in_parts(self, tokens: int, input_grad: bool) -> bool:
        """Whether it is computed without a node, as ``small`` does."""
        if self.kernel not in ONE_NODE or self.one_weight or not self.chain.linear:
            return False
        by_token = self._rank >= LEAST_RANK and few(tokens, self._rank) and self._frozen_around_vectors
        small = tokens * self.sizes["d_in"] <= self.small
        return (small or by_token) and self.form(tokens, input_grad) is None

    @property
    def _frozen_around_vectors(self) -> bool:
        names = around_vectors(self.chain)
        return names is not None and self.trains.isdisjoint((names[0], names[2]))

    @property
    def _rank(self) -> int:
        return self.sizes[self.chain.factors[0].n_out]

    def _work(self, tokens: int, input_grad: bool) -> Work:
        d_in, d_out = self.sizes["d_in"], self.sizes["d_out"]
        return Work(
            tokens=tokens,
            rank=self._rank,
            d_in=d_in,
            d_out=d_out,
            trains=bool(self.trains),
            input_grad=input_grad,
            half=self.half,
        )

    def flops(self, tokens: int, input_grad: bool) -> int:
        """Operations of a pass in which the layer is computed by itself."""
        if self.one_weight:
            return 0
        if self.kernel == "reference" or (self.kernel == "folded" and not self.chain.linear):
            return self._count(tokens, input_grad, "chain", "chain")
        if not self.chain.linear:  # in half precision, the update is applied in a product of its own
            return self._count(tokens, input_grad, "chain" if self.half else "folded", "folded")
        if self.in_parts(tokens, input_grad) and few(tokens, self._rank):
            return self._count(tokens, input_grad, "chain", "chain")
        form = self.form(tokens, input_grad) if self.kernel in ONE_NODE else None
        if form is not None:
            return self._work(tokens, input_grad).flops(form)
        return self._count(tokens, input_grad, "folded", "folded")

    def joined_flops(self, tokens: int, input_grad: bool, downs: bool) -> int:
        """Operations in a node with other layers; ``downs``: whether something before the narrowest place trains in
        one of them. Then the node takes gradients there for all."""
        extra = [self.chain.names[0]] if downs else []
        return self._count(tokens, input_grad, "folded", "folded", extra)

    def making(self) -> int:
        """Operations of adding base and update up to one weight."""
        chain, sizes = self.chain, self.sizes
        folds = chain.flops_per_pass(sizes, (), input_grad=False, form="folded").forward
        return folds + (2 * chain.rank(sizes) * sizes["d_in"] * sizes["d_out"] if chain.linear else 0)

    @property
    def trains_down(self) -> bool:
        """Whether something before the narrowest place trains."""
        return not self.trains.isdisjoint(self.chain.before_cut(self.sizes))

    def _count(self, tokens: int, input_grad: bool, token: Way, whole: Way, extra: Sequence[str] = ()) -> int:
        each = self.chain.flops_per_token(self.sizes, {*self.trains, *extra}, input_grad=input_grad, form=token)
        once = self.chain.flops_per_pass(self.sizes, self.trains, input_grad=input_grad, form=whole)
        return tokens * each.total + once.total


def pass_flops(layers: Sequence[Adapted], tokens: int, *, input_grad: bool) -> int:
    """Operations of one forward and backward pass beyond the base layers' own.

    Args:
        layers: one, or those that read one input, in the order of their calls.
        tokens: rows of the input.
        input_grad: whether the input asks for a gradient.
    """
    free = [
        layer
        for layer in layers
        if layer.kernel in ONE_NODE and not layer.one_weight and not layer.in_parts(tokens, input_grad)
    ]
    # the first takes along those that can join; one that cannot makes all of them go by themselves
    if len(free) < 2 or any(not layer.chain.linear or layer.form(tokens, input_grad) for layer in free[1:]):
        return sum(layer.flops(tokens, input_grad) for layer in layers)
    downs = any(layer.trains_down for layer in free)
    alone = [layer for layer in layers if layer not in free]
    return sum(layer.joined_flops(tokens, input_grad, downs) for layer in free) + sum(
        layer.flops(tokens, input_grad) for layer in alone
    )
