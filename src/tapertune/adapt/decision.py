"""What a policy works on, what it says, and what every policy has."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from .components import RankGroup
from .importance import Scores
from .parameter import AdapterParameter


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the controller is to do.

    Attributes:
        freeze: names of factors that stop training; those that have stopped may be among them.
        keep: by gate name, which rank components stay; the others' gates become zero.
        shrink: soft-threshold for gates, and its form.
        threshold: the score that divided them, where the policy has one.
        budget: rank components that may stay, where the policy has such a budget.
    """

    freeze: tuple[str, ...] = ()
    keep: Mapping[str, Tensor] = field(default_factory=dict)
    shrink: tuple[float, str] | None = None
    threshold: float | None = None
    budget: int | None = None


@dataclass(frozen=True, kw_only=True)
class PolicyScope:
    """What a policy works on, fixed when training starts.

    Attributes:
        scored: names of the tensors that are scored.
        groups: the rank components, for policies with a gate.
        freeze_groups: names that freeze together, unscored: the factors of a layer, from the lowest layer up, or the
            vectors of a module.
        compared: further groups of scored names, which are looked at beside the freeze groups and never freeze. Where
            there are any, what is scored freezes with its group alone.
        total: matrices, or rank components, there were at the start.
    """

    scored: tuple[str, ...]
    groups: tuple[RankGroup, ...] = ()
    freeze_groups: tuple[tuple[str, ...], ...] = ()
    compared: tuple[tuple[str, ...], ...] = ()
    total: int = 0

    @property
    def freezable(self) -> list[str]:
        """Names that may freeze, those that have frozen included."""
        if self.compared:
            return list(itertools.chain(*self.freeze_groups))
        modules = {module_of(name) for name in self.scored}
        together = [group for group in self.freeze_groups if not modules or module_of(group[0]) in modules]
        return [] if self.groups else [*self.scored, *itertools.chain(*together)]


def module_of(name: str) -> str:
    """The module of a factor, by the factor's name."""
    return name.rpartition(".")[0]


class Policy(Protocol):
    """Chooses among what a scope holds.

    Attributes:
        settles: whether the decision is for good once the schedule has run out, so that what was pruned can go.
        merge_frozen: whether a module in which nothing trains any more is computed as one weight.
        times_lr: whether a gate's learning rate multiplies the threshold by which it is shrunk.
    """

    @property
    def settles(self) -> bool: ...

    @property
    def merge_frozen(self) -> bool: ...

    @property
    def times_lr(self) -> bool: ...

    def scope(self, handles: Mapping[str, AdapterParameter], training: set[str]) -> PolicyScope:
        """Chooses what to watch. Raises TapertuneError where the adapter lacks a part that the policy names."""
        ...

    def check(self, scope: PolicyScope) -> None:
        """Raises TapertuneError where a run that starts with this scope could not do what the policy asks."""
        ...

    def decide(self, scores: Scores, remaining: float, scope: PolicyScope) -> Decision: ...


class BasePolicy:
    """A policy's answers where it has no others."""

    settles = False
    merge_frozen = False
    times_lr = False

    def check(self, scope: PolicyScope) -> None:
        """Any scope will do."""
