"""How many of an adapter's parameters train at each moment of a run, from its plans' schedules.

A policy that freezes leaves the schedule's fraction of what it may freeze; one with a rank budget takes ranks out of
all modules alike, which is so on average. Which ones go is decided by scores in training, and a policy whose gates
close by themselves (SoRA's) by training altogether: there nothing is taken off beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..adapt.bottom_up import BottomUp
from ..adapt.plan import Plan
from ..adapt.policies import Proximal, RankBudget
from ..report.numbers import count
from .shapes import Shape

_SAMPLES = 10_000  # steps that are looked at, about; of longer runs every second one, or fewer
_STEPS = 1000  # of a run whose length only its data can tell


@dataclass(frozen=True, kw_only=True)
class OverTime:
    """Parameters that train in the adapter.

    Attributes:
        start, average, end: at the first step, as a mean over all, at the last.
        curve: (share of the run, parameters), evenly over it.
        done: the part of what may freeze or go that has, as a mean over the run: from 0 to 1.
    """

    start: int
    average: int
    end: int
    curve: tuple[tuple[float, int], ...]
    done: float

    def spelled(self) -> str:
        """The three counts, or the one where nothing changes."""
        counts = [self.start, self.average, self.end]
        return " > ".join(map(count, counts if self.start != self.end else counts[:1]))


def over_time(shape: Shape, steps: int | None, rank: int | None = None) -> OverTime:
    """The parameters over a run.

    Args:
        shape: what trains at the start.
        steps: of the run, or None where they are not known.
        rank: of each module at the start, which rank budgets are shares of.
    """
    total = steps or _STEPS
    stakes = [(plan, most) for plan, (_, most) in zip(shape.plans, shape.stakes, strict=True) if most]
    places = range(0, total, max(1, total // _SAMPLES))
    gone = [
        sum(parts) for parts in zip(*(_gone(plan, rank, total, places, most) for plan, most in stakes), strict=True)
    ]
    counts = [shape.start - part for part in gone] if stakes else [float(shape.start)]
    whole = sum(most * _fall(plan, rank)(total, total) for plan, most in stakes)
    average = sum(counts) / len(counts)
    return OverTime(
        start=shape.start,
        average=round(average),
        end=round(shape.start - whole),
        curve=tuple((i / 4, round(counts[round(i / 4 * (len(counts) - 1))])) for i in range(5)),
        done=(shape.start - average) / whole if whole else 0.0,
    )


def _gone(plan: Plan, rank: int | None, total: int, places: range, most: int) -> list[float]:
    """What no longer trains at some steps, of so many parameters; it changes after the steps that decide alone."""
    fall, schedule, gone, now = _fall(plan, rank), plan.schedule, [], 0.0
    for step in places:
        gone.append(most * now)
        if places.step > 1 or schedule.acts(step, total):
            now = fall(step, total)
    return gone


def _fall(plan: Plan, rank: int | None) -> Callable[[int, int], float]:
    """The share of what is at stake that is gone at a step of so many."""
    schedule, policy = plan.schedule, plan.policy
    if isinstance(policy, Proximal):
        return lambda step, total: 0.0
    if not isinstance(policy, RankBudget):
        return lambda step, total: 1.0 - schedule.remaining(step, total)
    share = 0.0 if not rank else max(0.0, 1.0 - policy.target / rank)
    if plan.compact == "never":
        return lambda step, total: 0.0
    if plan.compact == "on_event":
        return lambda step, total: share * (1.0 - schedule.remaining(step, total))
    return lambda step, total: share * schedule.settled(step, total)


def frees_layers(plan: Plan) -> bool:
    """Whether whole layers stop training, the lowest first, so that backward ends above them."""
    return isinstance(plan.policy, BottomUp)
