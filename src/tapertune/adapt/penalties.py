"""Penalties as gradients: added where the optimizer is about to look, so that no loss ever contains them.

A penalty in the loss is multiplied by accumulation, lost where a loss is computed elsewhere (label smoothing, tuple
outputs), and part of the evaluation loss. Its gradient, added once before an optimizer step, is none of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..errors import bad_value
from .sharding import add, gather, whole
from .spec import check_name, check_range, factor_names, spec
from .stacked import Memory, Module, Stack, Term, batches

FORMS = ("squared_sum", "norm_mean")


class Penalty(Protocol):
    """``add(modules, scale)`` adds the gradient; ``value(modules)`` is what is penalised, for reports and tests;
    ``factors`` names what is read for both."""

    @property
    def factors(self) -> frozenset[str]: ...

    def add(self, modules: Sequence[Module], scale: float | Tensor = 1.0) -> None: ...

    def value(self, modules: Sequence[Module]) -> Tensor: ...


@spec("orthogonality")
@dataclass(frozen=True, kw_only=True)
class Orthogonality:
    """Keeps singular vectors orthonormal: ``|G - I|`` of Gram matrices G (AdaLoRA; LoRA^2).

    Attributes:
        weight: factor on the penalty.
        rows: factors F with ``G = F F'``.
        columns: factors F with ``G = F' F``.
        row_products, column_products: pairs (F, H): the same for the product ``F H``; LoRA^2's cross-plane term.
        form: ``squared_sum``, the sum of squared Frobenius norms (papers); ``norm_mean``, the mean of the norms
            themselves over all Gram matrices (released code).
    """

    weight: float = 0.1
    rows: tuple[str, ...] = ("A",)
    columns: tuple[str, ...] = ("B",)
    row_products: tuple[tuple[str, str], ...] = ()
    column_products: tuple[tuple[str, str], ...] = ()
    form: str = "squared_sum"

    def __post_init__(self) -> None:
        check_range("penalty.weight", self.weight, 0)
        if self.form not in FORMS:
            raise bad_value("penalty.form", self.form, "one of " + ", ".join(FORMS))
        for name in ("rows", "columns"):
            object.__setattr__(self, name, factor_names(f"penalty.{name}", getattr(self, name)))
        for name in ("row_products", "column_products"):
            object.__setattr__(self, name, _pairs(f"penalty.{name}", getattr(self, name)))

    @property
    def factors(self) -> frozenset[str]:
        products = (*self.row_products, *self.column_products)
        return frozenset((*self.rows, *self.columns, *(name for pair in products for name in pair)))

    @torch.no_grad()
    def value(self, modules: Sequence[Module]) -> Tensor:
        norms, memory = [], Memory()
        for batch, terms in self._batches(modules):
            stack = Stack(batch, memory)
            norms += [_norms(stack.gap(term)) for term in terms]
        flat = torch.cat(norms)
        return self.weight * (flat.mean() if self.form == "norm_mean" else flat.square().sum())

    @torch.no_grad()
    def add(self, modules: Sequence[Module], scale: float | Tensor = 1.0) -> None:
        """Closed form: ``d|G - I|_F^2 / dF = 4 (G - I) F``, and ``2 (G - I) F / |G - I|_F`` for the plain norm."""
        found, memory = self._batches(modules), Memory()
        count = sum(len(batch) * len(terms) for batch, terms in found)
        factor = (4 if self.form == "squared_sum" else 2 / max(count, 1)) * self.weight * scale
        for batch, terms in found:
            stack = Stack(batch, memory)
            for term in terms:
                if all(batch[0][name].grad is None for name in term.names):
                    continue
                gap = stack.gap(term)
                if self.form == "norm_mean":
                    gap = gap / _norms(gap).clamp_min(1e-30).view(-1, 1, 1)
                stack.spread(term, gap * factor)
            stack.add_gradients()

    def _batches(self, modules: Sequence[Module]) -> list[tuple[list[Module], list[Term]]]:
        """Batches of modules, and the terms that are to be had from each at once: those of one factor, or of factors
        that products tie together. Factors without any elements have none.
        """
        sides = ((self.rows, self.row_products, True), (self.columns, self.column_products, False))
        tied: list[list[Term]] = []
        for singles, products, rows in sides:
            for names in (*((name,) for name in singles), *products):
                own = [Term(names, rows)]
                for other in [terms for terms in tied if any(set(term.names) & set(names) for term in terms)]:
                    tied.remove(other)
                    own = other + own
                tied.append(own)
        return [
            (batch, [term for term in terms if all(batch[0][name].numel() for name in term.names)])
            for terms in tied
            for batch in batches(modules, sorted({name for term in terms for name in term.names}))
        ]


def _pairs(field: str, value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(pair, list | tuple) for pair in value):
        raise bad_value(field, value, "a list of pairs of factor names")
    pairs = tuple(factor_names(field, pair) for pair in value)
    if any(len(pair) != 2 for pair in pairs):
        raise bad_value(field, value, "a list of pairs of factor names")
    return cast("tuple[tuple[str, str], ...]", pairs)


def _norms(matrices: Tensor) -> Tensor:
    return matrices.flatten(1).norm(dim=1)


@spec("l1")
@dataclass(frozen=True, kw_only=True)
class L1:
    """``weight * sum|g| / number of gates`` over all gates (SoRA, released code's term in the loss).

    Attributes:
        weight: factor on the penalty.
        gate: the diagonal factor.
    """

    weight: float
    gate: str = "g"

    def __post_init__(self) -> None:
        check_range("penalty.weight", self.weight, 0)
        check_name("penalty.gate", self.gate)

    @property
    def factors(self) -> frozenset[str]:
        return frozenset((self.gate,))

    @torch.no_grad()
    def value(self, modules: Sequence[Module]) -> Tensor:
        gates = torch.cat([gate.flatten() for gate in gather([module[self.gate] for module in modules])])
        return self.weight * gates.abs().sum() / max(gates.numel(), 1)

    @torch.no_grad()
    def add(self, modules: Sequence[Module], scale: float | Tensor = 1.0) -> None:
        count = sum(module[self.gate].numel() for module in modules)
        for module in modules:
            gate = module[self.gate]
            _accumulate(gate, whole(gate).sign() * (self.weight * scale / max(count, 1)))


PENALTIES = (Orthogonality, L1)


def _accumulate(parameter: nn.Parameter, grad: Tensor) -> None:
    """Adds to a gradient; a factor that does not train now has none and gets none."""
    if parameter.grad is not None:
        add(parameter.grad, grad)
