"""What a policy works on, what it says, and what every policy has."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from .actuators import Handle
from .components import Group
from .importance import Scores


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
class Scene:
    """What a policy works on, fixed when training starts.

    Attributes:
        watched: names of the tensors that are scored.
        groups: the rank components, for policies with a gate.
        bundles: names that freeze together, unscored: the factors of a layer, from the lowest layer up, or the vectors
            of a module.
        total: matrices, or rank components, there were at the start.
    """

    watched: tuple[str, ...]
    groups: tuple[Group, ...] = ()
    bundles: tuple[tuple[str, ...], ...] = ()
    total: int = 0

    @property
    def freezable(self) -> list[str]:
        """Names that may freeze, those that have frozen included."""
        modules = {module_of(name) for name in self.watched}
        bundles = [b for b in self.bundles if not modules or module_of(b[0]) in modules]
        return [] if self.groups else [*self.watched, *itertools.chain(*bundles)]


def module_of(name: str) -> str:
    """The module of a factor, by the factor's name."""
    return name.rpartition(".")[0]


class Policy(Protocol):
    """Chooses among what a scene holds.

    Attributes:
        settles: whether the decision is for good once the schedule has run out, so that what was pruned can go.
        fold: whether a module in which nothing trains any more is computed as one weight.
    """

    @property
    def settles(self) -> bool: ...

    @property
    def fold(self) -> bool: ...

    def scene(self, handles: Mapping[str, Handle], training: set[str]) -> Scene:
        """Chooses what to watch. Raises TapertuneError where the adapter lacks a part that the policy names."""
        ...

    def check(self, scene: Scene) -> None:
        """Raises TapertuneError where a run that starts with this scene could not do what the policy asks."""
        ...

    def decide(self, scores: Scores, remaining: float, scene: Scene) -> Decision: ...


class Plain:
    """A policy's answers where it has no others."""

    settles = False
    fold = False

    def check(self, scene: Scene) -> None:
        """Any scene will do."""
