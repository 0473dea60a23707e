"""Schedules: which fraction is left at an optimizer step, and whether that step acts.

A duration is a whole number of steps or, as a float from 0 to 1, a fraction of the run. Steps count from 0.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass
from typing import Protocol

from ..errors import TapertuneError, bad_value
from .spec import check_count, check_range, spec

Duration = int | float


class Schedule(Protocol):
    """``remaining(step, total)`` in [0, 1] and ``acts(step, total)``; ``check(total)`` raises on what cannot be.

    ``settled(step, total)``: the fraction has reached its end and will not change again.
    """

    def remaining(self, step: int, total: int) -> float: ...

    def acts(self, step: int, total: int) -> bool: ...

    def settled(self, step: int, total: int) -> bool: ...

    def check(self, total: int) -> None: ...


def in_steps(duration: Duration, total: int) -> int:
    """A duration in steps of a run of ``total``.

    >>> in_steps(0.25, 1000), in_steps(30, 1000)
    (250, 30)
    """
    return round(duration * total) if isinstance(duration, float) else duration


@dataclass(frozen=True, kw_only=True)
class _Ramp:
    """1 up to ``warmup``, a curve down to 0 at ``total - cooldown``, 0 from then on.

    It acts on every ``every``-th step inside the ramp and on each step after it.

    Attributes:
        warmup: duration at the start in which nothing changes.
        cooldown: duration at the end by which all is done.
        every: steps between decisions.
    """

    warmup: Duration = 0.05
    cooldown: Duration = 0.7
    every: int = 10

    def __post_init__(self) -> None:
        for name in ("warmup", "cooldown"):
            check_duration(f"schedule.{name}", getattr(self, name))
        check_count("schedule.every", self.every, " of steps")

    def check(self, total: int) -> None:
        start, end = self._ends(total)
        if start >= end:
            raise TapertuneError(
                f"schedule.warmup {self.warmup!r} and schedule.cooldown {self.cooldown!r} take {start + total - end} "
                f"of the run's {total} steps; together they must leave at least one step between them"
            )

    def remaining(self, step: int, total: int) -> float:
        start, end = self._ends(total)
        if step <= start:
            return 1.0
        return self.curve((step - start) / (end - start)) if step <= end else 0.0

    def acts(self, step: int, total: int) -> bool:
        start, end = self._ends(total)
        return step > end or (step > start and step % self.every == 0)

    def settled(self, step: int, total: int) -> bool:
        return step >= self._ends(total)[1]

    def curve(self, u: float) -> float:
        """The fraction left after a part u, from 0 to 1, of the ramp."""
        raise NotImplementedError  # each schedule below is its curve

    def _ends(self, total: int) -> tuple[int, int]:
        return in_steps(self.warmup, total), total - in_steps(self.cooldown, total)


@spec("cubic")
@dataclass(frozen=True, kw_only=True)
class Cubic(_Ramp):
    """``(1 - u)^3``: steep at first. AFLoRA's schedule, and AdaLoRA's (there equation 14).

    >>> [Cubic(warmup=0, cooldown=0).remaining(t, 10) for t in (0, 5, 10)]
    [1.0, 0.125, 0.0]
    """

    def curve(self, u: float) -> float:
        return (1 - u) ** 3


@spec("quadratic")
@dataclass(frozen=True, kw_only=True)
class Quadratic(_Ramp):
    """``1 - u^2``: gentle at first. AFLoRA's GSM8K schedule (released code).

    >>> [Quadratic(warmup=0, cooldown=0).remaining(t, 10) for t in (0, 5, 10)]
    [1.0, 0.75, 0.0]
    """

    def curve(self, u: float) -> float:
        return 1 - u**2


@spec("constant")
@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same fraction throughout: 1 changes nothing, 0 freezes everything at once.

    Attributes:
        value: the fraction left.
        every: steps between decisions.
    """

    value: float = 1.0
    every: int = 10

    def __post_init__(self) -> None:
        check_range("schedule.value", self.value, 0, 1)
        check_count("schedule.every", self.every, " of steps")

    def check(self, total: int) -> None:
        return None

    def remaining(self, step: int, total: int) -> float:
        return self.value

    def acts(self, step: int, total: int) -> bool:
        return step % self.every == 0

    def settled(self, step: int, total: int) -> bool:
        return False


@spec("join", nested="parts")
@dataclass(frozen=True, kw_only=True)
class Join:
    """Schedules one after another; each sees its own stretch as the whole run, counted from 0.

    Attributes:
        parts: the schedules.
        boundaries: where the second, third, ... begins, ascending durations; one fewer than parts.
    """

    parts: tuple[Schedule, ...]
    boundaries: tuple[Duration, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.boundaries, list | tuple):
            raise bad_value("schedule.boundaries", self.boundaries, "a list of durations")
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        if not self.parts or len(self.boundaries) != len(self.parts) - 1:
            raise bad_value("schedule.boundaries", list(self.boundaries), f"{len(self.parts) - 1} durations")
        for boundary in self.boundaries:
            check_duration("schedule.boundaries", boundary)

    def check(self, total: int) -> None:
        edges = self._edges(total)
        if any(a >= b for a, b in itertools.pairwise(edges)):
            raise bad_value("schedule.boundaries", list(self.boundaries), f"ascending and inside the {total} steps")
        for part, (a, b) in zip(self.parts, itertools.pairwise(edges), strict=True):
            part.check(b - a)

    def remaining(self, step: int, total: int) -> float:
        part, local, length = self._local(step, total)
        return part.remaining(local, length)

    def acts(self, step: int, total: int) -> bool:
        part, local, length = self._local(step, total)
        return part.acts(local, length)

    def settled(self, step: int, total: int) -> bool:
        part, local, length = self._local(step, total)
        return part is self.parts[-1] and part.settled(local, length)

    def _edges(self, total: int) -> list[int]:
        return [0, *(in_steps(b, total) for b in self.boundaries), total]

    def _local(self, step: int, total: int) -> tuple[Schedule, int, int]:
        edges = self._edges(total)
        i = min(bisect.bisect_right(edges, step), len(self.parts)) - 1
        return self.parts[i], step - edges[i], edges[i + 1] - edges[i]


def check_duration(field: str, value: Duration) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < 1 << 63 or (isinstance(value, float) and value > 1):
        raise bad_value(field, value, "a whole number of steps, or a fraction of the run from 0.0 to 1.0")
