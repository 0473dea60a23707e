"""Policies: scores and a budget into a decision. Pure; the only host synchronisation is on steps that decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..errors import TapertuneError, bad_value, unknown
from .actuators import Handle
from .bottom_up import BottomUp
from .components import component_scores, group_by_gate
from .decision import Decision, Plain, Scene, module_of
from .importance import Scores
from .spec import check_count, check_flag, check_name, check_range, factor_names, spec

# ---- freezing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Freezing(Plain):
    """
    Attributes:
        factors: names of the factors that may freeze, or None for all dense ones.
        freeze_vectors: let a module's vectors freeze too, once all its factors that may freeze have.
        fold: compute a module in which nothing trains any more as one weight, for a second copy of its base weight in
            memory; see ``BottomUp``.
    """

    factors: tuple[str, ...] | None = None
    freeze_vectors: bool = False
    fold: bool = False

    def __post_init__(self) -> None:
        for name in ("freeze_vectors", "fold"):
            check_flag(f"policy.{name}", getattr(self, name))
        if self.factors is not None:
            object.__setattr__(self, "factors", factor_names("policy.factors", self.factors))

    def scene(self, handles: Mapping[str, Handle], training: set[str]) -> Scene:
        _check_factors("policy.factors", self.factors, handles)
        watched = tuple(
            name
            for name, handle in handles.items()
            if name in training and (handle.matrix if self.factors is None else handle.factor in self.factors)
        )
        vectors: dict[str, list[str]] = {}
        for name, handle in handles.items():
            if self.freeze_vectors and not handle.matrix and name not in watched:
                vectors.setdefault(handle.module, []).append(name)
        return Scene(watched=watched, bundles=tuple(map(tuple, vectors.values())), total=len(watched))

    def decide(self, scores: Scores, remaining: float, scene: Scene) -> Decision:
        """
        Args:
            scores: of the matrices still training.
            remaining: the schedule's fraction of matrices that may go on.
            scene: ``total`` is the matrices there were at the start; its bundles are the vectors of each module.
        """
        decision = self.choose(scores, remaining, scene)
        trains = {module_of(name) for name in scores.names if name not in decision.freeze}
        closed = {module_of(name) for name in scene.watched} - trains
        vectors = [name for bundle in scene.bundles if module_of(bundle[0]) in closed for name in bundle]
        return replace(decision, freeze=(*decision.freeze, *vectors))

    def choose(self, scores: Scores, remaining: float, scene: Scene) -> Decision:
        """Which matrices freeze; arguments as for ``decide``."""
        raise NotImplementedError  # each policy below is its choice


@spec("lowest_fraction")
@dataclass(frozen=True, kw_only=True)
class LowestFraction(_Freezing):
    """Freezes the lowest-scored matrices until ``1 - remaining`` of all are frozen (AFLoRA, the paper's text)."""

    def choose(self, scores: Scores, remaining: float, scene: Scene) -> Decision:
        # the small number keeps a product such as 0.3 * 10 from being cut to one matrix fewer
        due = int((1 - remaining) * scene.total + 1e-9) - (scene.total - len(scores.names))
        if due <= 0:
            return Decision()
        means = scores.means().tolist()
        order = sorted(range(len(means)), key=lambda i: (means[i], i))[:due]
        return Decision(freeze=tuple(scores.names[i] for i in sorted(order)), threshold=max(means[i] for i in order))


@spec("mean_below_quantile")
@dataclass(frozen=True, kw_only=True)
class MeanBelowQuantile(_Freezing):
    """Freezes matrices whose mean score is below the ``1 - remaining`` quantile over the *elements* of what still
    trains (AFLoRA, released code). It starts later than the schedule and then runs ahead of it; at ``remaining`` 0 all
    freeze.
    """

    def choose(self, scores: Scores, remaining: float, scene: Scene) -> Decision:
        rank = int(scores.elements.numel() * (1 - remaining))
        if rank == 0:
            return Decision()
        threshold = torch.kthvalue(scores.elements, rank).values
        below = (scores.means() < threshold).tolist()
        names = tuple(name for name, low in zip(scores.names, below, strict=True) if low or remaining == 0)
        return Decision(freeze=names, threshold=float(threshold))


# ---- pruning ---------------------------------------------------------------------------------------------------------


@spec("rank_budget")
@dataclass(frozen=True, kw_only=True)
class RankBudget(Plain):
    """Keeps the rank components of highest score, over all modules together, within a budget that falls from all of
    them to ``target`` a module (AdaLoRA; LoRA^2). Components that tie with the threshold go.

    Attributes:
        gate: the diagonal factor whose elements switch components.
        target: mean rank at the end.
        scored: names of the factors whose elements count, or None for all that have the components.
    """

    gate: str
    target: int
    scored: tuple[str, ...] | None = None

    settles = True

    def __post_init__(self) -> None:
        check_name("policy.gate", self.gate)
        check_count("policy.target", self.target)
        if self.scored is not None:
            object.__setattr__(self, "scored", factor_names("policy.scored", self.scored))

    def scene(self, handles: Mapping[str, Handle], training: set[str]) -> Scene:
        _check_factors("policy.scored", self.scored, handles)
        groups = [
            replace(g, parts=tuple(p for p in g.parts if self._counts(handles[p[0]], training)))
            for g in group_by_gate(handles.values(), self.gate)
        ]
        watched = tuple(name for group in groups for name, _ in group.parts)
        total = sum(g.size for g in groups)
        return Scene(watched=watched, groups=tuple(groups), total=total)

    def check(self, scene: Scene) -> None:
        mean = scene.total / len(scene.groups)
        if self.target >= mean > 1:
            raise bad_value("target rank", self.target, f"less than the mean initial rank, {mean:g}")

    def _counts(self, handle: Handle, training: set[str]) -> bool:
        # what an earlier run has left without ranks does not train, but its part of the budget is the others'
        here = handle.name in training or not handle.parameter.numel()
        return here and (self.scored is None or handle.factor in self.scored)

    def decide(self, scores: Scores, remaining: float, scene: Scene) -> Decision:
        """
        Args:
            scores: of the watched tensors.
            remaining: the schedule's fraction of the ranks to be given up.
            scene: its groups; one that has frozen, and so is not scored, has left the budget with the ranks it has.
        """
        shaped = scores.shaped()
        groups = [g for g in scene.groups if g.parts and all(name in shaped for name, _ in g.parts)]
        if not groups:
            return Decision()
        values = component_scores(shaped, groups)
        flat = torch.cat(values)
        start, end = sum(group.size for group in groups), self.target * len(groups)
        budget = int(end + (start - end) * remaining)
        rank = flat.numel() - budget
        if rank <= 0:
            return Decision(budget=budget)
        threshold = torch.kthvalue(flat, rank).values
        kept = (flat > threshold).split([len(value) for value in values])
        keep = {group.gate: part for group, part in zip(groups, kept, strict=True)}
        return Decision(keep=keep, threshold=float(threshold), budget=budget)


FORMS = ("soft", "released")


@spec("proximal")
@dataclass(frozen=True, kw_only=True)
class Proximal(Plain):
    """Soft-thresholds gates after each optimizer step (SoRA): small gates reach exactly zero. The
    threshold rises to ``threshold`` as the schedule's fraction falls to 0.

    Attributes:
        gate: the diagonal factor.
        threshold: amount taken off every gate.
        form: ``soft``, or ``released`` for the released code's three assignments in a row, which zero everything below
            twice the threshold and leave a gate that equals it.
        times_lr: multiply the threshold by the gate's learning rate, as the paper's equation does; the released code
            does not.
    """

    gate: str = "g"
    threshold: float = 3e-4
    form: str = "soft"
    times_lr: bool = False

    def __post_init__(self) -> None:
        check_name("policy.gate", self.gate)
        check_range("policy.threshold", self.threshold, 0)
        check_flag("policy.times_lr", self.times_lr)
        if self.form not in FORMS:
            raise unknown("policy.form", self.form, FORMS)

    def scene(self, handles: Mapping[str, Handle], training: set[str]) -> Scene:
        groups = group_by_gate(handles.values(), self.gate)
        return Scene(watched=(), groups=tuple(groups), total=sum(g.size for g in groups))

    def decide(self, scores: Scores, remaining: float, scene: Scene) -> Decision:
        return Decision(shrink=(self.threshold * (1 - remaining), self.form))


POLICIES = (LowestFraction, MeanBelowQuantile, BottomUp, RankBudget, Proximal)


def _check_factors(field: str, wanted: Sequence[str] | None, handles: Mapping[str, Handle]) -> None:
    known = {handle.factor for handle in handles.values()}
    missing = sorted(set(wanted or ()) - known)
    if missing:
        raise TapertuneError(
            f"{field} names {', '.join(missing)}; the adapter's factors are {', '.join(sorted(known))}"
        )
