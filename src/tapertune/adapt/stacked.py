"""Factors of many modules at once, for penalties on Gram matrices: a few batched products for all modules alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .blocks import block_size, blocks
from .sharding import add, gather, is_sharded

Module = Mapping[str, nn.Parameter]
_FUSED = cast(Any, torch)  # as in averages


class Term(NamedTuple):
    """One Gram matrix of each module: ``G = P P'`` with ``rows``, else ``P' P``.

    Attributes:
        names: of the factor P, or of the two whose product P is.
        rows: which of the two.
    """

    names: tuple[str, ...]
    rows: bool


class Memory:
    """Scratch memory that stacks use one after the other: fresh memory costs as much as the work in it."""

    def __init__(self) -> None:
        self._pieces: dict[Any, Tensor] = {}

    def piece(self, name: str, count: int, like: Tensor) -> Tensor:
        """(count, *like.shape), overwritten by the next of that name."""
        key, size = (name, like.dtype, like.device), count * like.numel()
        if key not in self._pieces or self._pieces[key].numel() < size:
            self._pieces[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return self._pieces[key][:size].view(count, *like.shape)


class Stack:
    """Factors of modules that have the same shapes, each stacked to (n, a, b), and the gradients that gather on them.

    Penalties give a factor F gradients of the form ``left F + F right + rest``; the small left and right matrices are
    summed before they meet F.

    Args:
        modules: with the same shapes.
        memory: where factors are stacked; no other stack with it may be in use.
    """

    def __init__(self, modules: Sequence[Module], memory: Memory) -> None:
        self.modules, self._memory = modules, memory
        self._factors: dict[str, Tensor] = {}
        self._grams: dict[Term, Tensor] = {}
        self._left: dict[str, Tensor] = {}
        self._right: dict[str, Tensor] = {}
        self._rest: dict[str, Tensor] = {}

    def factor(self, name: str) -> Tensor:
        """(n, a, b)"""
        if name not in self._factors:
            parts = gather([module[name] for module in self.modules])
            self._factors[name] = torch.stack(parts, out=self._memory.piece(name, len(parts), parts[0]))
        return self._factors[name]

    def gram(self, term: Term) -> Tensor:
        """(n, k, k). Of a product, the wide factor enters through its own Gram matrix alone."""
        if term not in self._grams:
            first = self.factor(term.names[0])
            if len(term.names) == 1:
                made = torch.bmm(first, first.mT) if term.rows else torch.bmm(first.mT, first)
            elif term.rows:
                made = first @ self.gram(Term(term.names[1:], True)) @ first.mT
            else:
                second = self.factor(term.names[1])
                made = second.mT @ self.gram(Term(term.names[:1], False)) @ second
            self._grams[term] = made
        return self._grams[term]

    def gap(self, term: Term) -> Tensor:
        """``G - I``."""
        gap = self.gram(term).clone()
        gap.diagonal(dim1=1, dim2=2).sub_(1)
        return gap

    def spread(self, term: Term, multiple: Tensor) -> None:
        """Adds the gradients ``M P`` (with ``rows``) or ``P M`` on P to those of the term's factors.

        Args:
            term: whose Gram matrix is penalised.
            multiple: M, a multiple of the gap.
        """
        if len(term.names) == 1:
            _gather(self._left if term.rows else self._right, term.names[0], multiple)
            return
        first, second = term.names
        if term.rows:
            narrow = multiple @ self.factor(first)
            _gather(self._rest, first, narrow @ self.gram(Term((second,), True)))
            _gather(self._left, second, self.factor(first).mT @ narrow)
        else:
            narrow = self.factor(second) @ multiple
            _gather(self._rest, second, self.gram(Term((first,), False)) @ narrow)
            _gather(self._right, first, narrow @ self.factor(second).mT)

    def add_gradients(self) -> None:
        """Adds what has gathered to the gradients that exist."""
        for name in {**self._left, **self._right, **self._rest}:
            grads = [module[name].grad for module in self.modules]
            if grads[0] is None:
                continue
            total = self._total(name).unbind(0)
            if is_sharded(grads[0]):
                for grad, part in zip(cast("list[Tensor]", grads), total, strict=True):
                    add(grad, part)
            else:
                _FUSED._foreach_add_(grads, total)

    def _total(self, name: str) -> Tensor:
        factor = self.factor(name)
        total = self._memory.piece("gradient", 1, factor)[0]
        if name in self._left:
            torch.bmm(self._left[name], factor, out=total)
        if name in self._right:
            torch.baddbmm(total, factor, self._right[name], beta=int(name in self._left), out=total)
        if name not in self._rest:
            return total
        return total.add_(self._rest[name]) if name in self._left or name in self._right else self._rest[name]


def _gather(into: dict[str, Tensor], name: str, gradient: Tensor) -> None:
    into[name] = into[name] + gradient if name in into else gradient


def batches(modules: Sequence[Module], names: Sequence[str]) -> list[list[Module]]:
    """Modules whose factors of these names have the same shapes, and gradients or none, up to a block in each batch."""
    alike: dict[Any, list[Module]] = {}
    for module in modules:
        factors = [module[name] for name in names]
        key = tuple((p.shape, p.dtype, p.device, p.grad is None) for p in factors)
        alike.setdefault(key, []).append(module)
    out = []
    for key, members in alike.items():
        size = sum(shape.numel() for shape, *_ in key)
        device = key[0][2] if key else torch.device("cpu")
        out += [members[a:b] for a, b in blocks([size] * len(members), block_size(device))]
    return out
