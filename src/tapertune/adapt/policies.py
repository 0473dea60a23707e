"""Policies: scores and a budget into a decision. Pure; the only host synchronisation is on steps that decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..errors import TapertuneError, bad_value, unknown
from .bottom_up import BottomUp
from .components import component_scores, group_by_gate
from .decision import BasePolicy, Decision, PolicyScope, module_of
from .importance import Scores
from .parameter import AdapterParameter
from .spec import check_count, check_flag, check_name, check_range, factor_names, spec

# ---- freezing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Freezing(BasePolicy):
    """
    Attributes:
        factors: names of the factors that may freeze, or None for all dense ones.
        freeze_vectors: let a module's vectors freeze too, once all its factors that may freeze have.
        merge_frozen: compute a module in which nothing trains any more as one weight, for a second copy of its base
            weight in memory; see ``BottomUp``.
    """

    factors: tuple[str, ...] | None = None
    freeze_vectors: bool = False
    merge_frozen: bool = False

    def __post_init__(self) -> None:
        for name in ("freeze_vectors", "merge_frozen"):
            check_flag(f"policy.{name}", getattr(self, name))
        if self.factors is not None:
            object.__setattr__(self, "factors", factor_names("policy.factors", self.factors))

    def scope(self, handles: Mapping[str, AdapterParameter], training: set[str]) -> PolicyScope:
        _check_factors("policy.factors", self.factors, handles)
        scored = tuple(
            name
            for name, handle in handles.items()
            if name in training and (handle.matrix if self.factors is None else handle.factor in self.factors)
        )
        vectors: dict[str, list[str]] = {}
        for name, handle in handles.items():
            if self.freeze_vectors and not handle.matrix and name not in scored:
                vectors.setdefault(handle.module, []).append(name)
        return PolicyScope(scored=scored, freeze_groups=tuple(map(tuple, vectors.values())), total=len(scored))

    def decide(self, scores: Scores, remaining: float, scope: PolicyScope) -> Decision:
        """
        Args:
            scores: of the matrices still training.
            remaining: the schedule's fraction of matrices that may go on.
            scope: ``total`` is the matrices there were at the start; its freeze groups are the vectors of each module.
        """
        decision = self.choose(scores, remaining, scope)
        trains = {module_of(name) for name in scores.names if name not in decision.freeze}
        trains |= {module_of(name) for name in scores.unreached}
        closed = {module_of(name) for name in scope.scored} - trains
        vectors = [name for group in scope.freeze_groups if module_of(group[0]) in closed for name in group]
        return replace(decision, freeze=(*decision.freeze, *vectors))

    def choose(self, scores: Scores, remaining: float, scope: PolicyScope) -> Decision:
        """Which matrices freeze; arguments as for ``decide``."""
        raise NotImplementedError  # each policy below is its choice


@spec("lowest_fraction")
@dataclass(frozen=True, kw_only=True)
class LowestFraction(_Freezing):
    """Freezes the lowest-scored matrices until ``1 - remaining`` of all are frozen (AFLoRA, the paper's text)."""

    def choose(self, scores: Scores, remaining: float, scope: PolicyScope) -> Decision:
        # the small number keeps a product such as 0.3 * 10 from being cut to one matrix fewer
        total = scope.total - len(scores.unreached)
        due = int((1 - remaining) * total + 1e-9) - (total - len(scores.names))
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

    def choose(self, scores: Scores, remaining: float, scope: PolicyScope) -> Decision:
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
class RankBudget(BasePolicy):
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

    def scope(self, handles: Mapping[str, AdapterParameter], training: set[str]) -> PolicyScope:
        _check_factors("policy.scored", self.scored, handles)
        groups = [
            replace(g, parts=tuple(p for p in g.parts if self._counts(handles[p[0]], training)))
            for g in group_by_gate(handles.values(), self.gate)
        ]
        scored = tuple(name for group in groups for name, _ in group.parts)
        total = sum(g.size for g in groups)
        return PolicyScope(scored=scored, groups=tuple(groups), total=total)

    def check(self, scope: PolicyScope) -> None:
        mean = scope.total / len(scope.groups)
        if self.target >= mean > 1:
            raise bad_value("target rank", self.target, f"less than the mean initial rank, {mean:g}")

    def _counts(self, handle: AdapterParameter, training: set[str]) -> bool:
        # what an earlier run has left without ranks does not train, but its part of the budget is the others'
        here = handle.name in training or not handle.parameter.numel()
        return here and (self.scored is None or handle.factor in self.scored)

    def decide(self, scores: Scores, remaining: float, scope: PolicyScope) -> Decision:
        """
        Args:
            scores: of the scored tensors.
            remaining: the schedule's fraction of the ranks to be given up.
            scope: its groups; one that has frozen, and so is not scored, has left the budget with the ranks it has, and
                so has one that no gradient has reached, which keeps them.
        """
        shaped = scores.shaped()
        groups = [g for g in scope.groups if g.parts and all(name in shaped for name, _ in g.parts)]
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
class Proximal(BasePolicy):
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

    def scope(self, handles: Mapping[str, AdapterParameter], training: set[str]) -> PolicyScope:
        groups = group_by_gate(handles.values(), self.gate)
        return PolicyScope(scored=(), groups=tuple(groups), total=sum(g.size for g in groups))

    def decide(self, scores: Scores, remaining: float, scope: PolicyScope) -> Decision:
        return Decision(shrink=(self.threshold * (1 - remaining), self.form))


POLICIES = (LowestFraction, MeanBelowQuantile, BottomUp, RankBudget, Proximal)


def _check_factors(field: str, wanted: Sequence[str] | None, handles: Mapping[str, AdapterParameter]) -> None:
    known = {handle.factor for handle in handles.values()}
    missing = sorted(set(wanted or ()) - known)
    if missing:
        raise TapertuneError(
            f"{field} names {', '.join(missing)}; the adapter's factors are {', '.join(sorted(known))}"
        )
