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
from .shapes import Shape

_SAMPLES = 400
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
        return " > ".join(short_count(count) for count in (counts if self.start != self.end else counts[:1]))


def short_count(count: int) -> str:
    """
    >>> short_count(1327104), short_count(83232), short_count(768)
    ('1.33M', '83k', '768')
    """
    if count >= 10**6:
        return f"{count / 10**6:.2f}M"
    return f"{count / 1000:.0f}k" if count >= 10**4 else str(count)


def over_time(shape: Shape, steps: int | None, rank: int | None = None) -> OverTime:
    """The parameters over a run.

    Args:
        shape: what trains at the start.
        steps: of the run, or None where they are not known.
        rank: of each module at the start, which rank budgets are shares of.
    """
    total = steps or _STEPS
    falls = [(_fall(plan, rank), most) for plan, (_, most) in zip(shape.plans, shape.stakes, strict=True) if most]

    def gone(step: int) -> float:
        return sum(most * fall(step, total) for fall, most in falls)

    places = sorted({round(i * (total - 1) / _SAMPLES) for i in range(_SAMPLES + 1)})
    counts = [shape.start - gone(place) for place in places]
    whole = gone(total)
    return OverTime(
        start=shape.start,
        average=round(sum(counts) / len(counts)),
        end=round(shape.start - whole),
        curve=tuple((i / 4, round(counts[round(i / 4 * (len(counts) - 1))])) for i in range(5)),
        done=(shape.start - sum(counts) / len(counts)) / whole if whole else 0.0,
    )


def _fall(plan: Plan, rank: int | None) -> Callable[[int, int], float]:
    """The share of what is at stake that is gone at a step of so many."""
    schedule, policy = plan.schedule, plan.policy
    if isinstance(policy, Proximal):
        return lambda step, total: 0.0
    if not isinstance(policy, RankBudget):
        # what is at stake of the lowest layers is what freezes; groups of the policy
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
