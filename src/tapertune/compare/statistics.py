"""What a grid's records say, and how sure of it one may be.

A row's result on a task is the test score of the point that the selection scores chose, averaged over seeds. Its
interval comes from a bootstrap over seeds and examples at once: both are drawn anew, so that an interval covers other
seeds and other test rows. One seed fewer is drawn than there are, which makes the spread of the mean unbiased
(McCarthy, 1969). Differences from the reference row are paired: the same seeds and the same test rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .jobs import Comparison
from .points import Point
from .record import RunRecord
from .selection import Cell, Records, cell_of

LEVEL = 0.95
Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A row against the reference on a task.

    Attributes:
        value: mean difference of test scores over the seeds that both have.
        interval: of 95%, not adjusted for how many rows are tested.
        p: two-sided; adjusted by Holm over the rows of the task once ``adjusted`` is set.
        adjusted: whether it is.
    """

    value: float
    interval: tuple[float, float]
    p: float
    adjusted: bool = False

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval leaves out zero and the adjusted test agrees; else ``tie``."""
        low, high = self.interval
        if self.p >= 1 - LEVEL or low <= 0 <= high:
            return "tie"
        return "better" if self.value > 0 else "worse"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the chosen point's runs took, each a mean over seeds.

    Attributes:
        start, average, end: parameters of the adapter that train.
        flops: operations of a training.
        seconds: of wall time in training steps; None where no run was made on the table's machine.
        peak_bytes: the most memory of a process; None likewise.
        adapter_bytes: of the saved weights.
    """

    start: float
    average: float
    end: float
    flops: float | None
    seconds: float | None
    peak_bytes: float | None
    adapter_bytes: float | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A row on a task: the result of equal tuning.

    Attributes:
        row, task, metric: which.
        point: the chosen one.
        seeds: how many stand behind it, of those that the grid has.
        diverged: seeds of it that diverged; they are no part of the mean.
        complete: whether all of its runs are made.
        mean, interval: of the test score.
        selection: mean selection score of the chosen point.
        difference: from the reference; None for the reference itself, or where no seed is shared.
        costs: of the chosen point.
    """

    row: str
    task: str
    metric: str
    point: Point
    seeds: int
    diverged: int
    complete: bool
    mean: float
    interval: tuple[float, float]
    selection: float
    difference: Difference | None
    costs: Costs


@dataclass(frozen=True, kw_only=True)
class RatePoint:
    """A learning rate of a row on a task, with the first seed: its scores, and how far its test score is from the best
    rate's. Scores are None where the run diverged."""

    rate: float
    selection: float | None
    test: float | None
    regret: float | None


def summarise(comparison: Comparison, records: Records) -> list[Summary]:
    """The summaries of all cells of which something is known, task by task, with Holm's correction within each."""
    cells = [cell_of(comparison, records, row, task) for task, row in comparison.cells()]
    machine = main_machine([record for cell in cells for _, found in cell.runs for record in found.values()])
    chosen = {(cell.row, cell.task): found for cell in cells if (found := _scored(cell)) is not None}
    summaries: list[Summary] = []
    for task in comparison.grid.tasks:
        reference = chosen.get((comparison.grid.reference, task))
        here = [
            _summary(comparison, cell, chosen[cell.row, task], None if reference is None else reference[1], machine)
            for cell in cells
            if cell.task == task and (cell.row, task) in chosen
        ]
        summaries += _adjusted(here)
    return summaries


def _scored(cell: Cell) -> tuple[Point, dict[int, RunRecord]] | None:
    """The chosen point with those of its records that have scores, by seed."""
    if cell.chosen is None:
        return None
    point, records = cell.chosen
    kept = {record.seed: record for record in records if record.test is not None}
    return (point, kept) if kept else None


def _summary(
    comparison: Comparison,
    cell: Cell,
    chosen: tuple[Point, dict[int, RunRecord]],
    reference: dict[int, RunRecord] | None,
    machine: str,
) -> Summary:
    point, records = chosen
    assert cell.chosen is not None, "a chosen point"
    found = list(records.values())
    draws = np.stack([_test(record).examples.sampled() for record in found])  # pyright: ignore[reportOptionalMemberAccess]
    finals = sum(len(runs) for _, runs in cell.runs)
    is_reference = cell.row == comparison.grid.reference
    return Summary(
        row=cell.row, task=cell.task, metric=_test(found[0]).metric, point=point, seeds=len(found),
        diverged=len(cell.chosen[1]) - len(found),
        complete=cell.complete and finals == len(cell.finalists) * len(comparison.grid.seeds),
        mean=fmean(_test(record).value for record in found), interval=interval(crossed(draws)),
        selection=fmean(record.selection.value for record in found if record.selection is not None),
        difference=None if reference is None or is_reference else difference(records, reference),
        costs=_costs(found, machine),
    )  # fmt: skip


def _test(record: RunRecord) -> Any:
    assert record.test is not None, "a run with scores"
    return record.test


def crossed(draws: Array, seed: int = 0) -> Array:
    """Bootstrap means over seeds and examples at once: (DRAWS,).

    Args:
        draws: each seed's metric on each sample of the test's rows, the same rows for all seeds: (seeds, DRAWS).
        seed: of the draws of seeds.
    """
    count = len(draws)
    if count == 1:
        return draws[0]
    taken = np.random.default_rng(seed).integers(0, count, size=(draws.shape[1], count - 1))
    return draws[taken, np.arange(draws.shape[1])[:, None]].mean(1)


def interval(values: Array) -> tuple[float, float]:
    """The middle 95% of bootstrap values."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def difference(records: Mapping[int, RunRecord], reference: Mapping[int, RunRecord]) -> Difference | None:
    """A row's records against the reference's, paired by seed and by test row; None where they share no seed.

    The test's p is that of the mean difference over its bootstrap deviation: Student's t with one degree of freedom
    fewer than seeds, or the normal distribution where there is one seed and only examples vary.
    """
    shared = sorted(records.keys() & reference.keys())
    if not shared:
        return None
    pairs = [(_test(records[seed]), _test(reference[seed])) for seed in shared]
    value = fmean(ours.value - theirs.value for ours, theirs in pairs)
    spread = crossed(np.stack([ours.examples.sampled() - theirs.examples.sampled() for ours, theirs in pairs]))
    deviation = float(spread.std(ddof=1))
    if deviation == 0:
        p = 1.0 if value == 0 else 0.0
    else:
        ratio = abs(value) / deviation
        p = float(2 * (stats.t.sf(ratio, len(shared) - 1) if len(shared) > 1 else stats.norm.sf(ratio)))
    return Difference(value=value, interval=interval(spread), p=p)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p values (Holm, 1979), in their own order.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(values)), key=lambda number: values[number])
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[number]))
        adjusted[number] = highest
    return adjusted


def _adjusted(summaries: list[Summary]) -> list[Summary]:
    tested = [s.difference.p for s in summaries if s.difference is not None]
    values = iter(holm(tested))
    return [
        s if s.difference is None else replace(s, difference=replace(s.difference, p=next(values), adjusted=True))
        for s in summaries
    ]


def wins(summaries: Sequence[Summary]) -> dict[str, tuple[int, int, int]]:
    """(better, tie, worse) than the reference over the tasks, by row."""
    counted: dict[str, list[int]] = {}
    for summary in summaries:
        if summary.difference is not None:
            counts = counted.setdefault(summary.row, [0, 0, 0])
            counts[("better", "tie", "worse").index(summary.difference.verdict)] += 1
    return {row: (better, tie, worse) for row, (better, tie, worse) in counted.items()}


def rate_curve(cell: Cell) -> list[RatePoint]:
    """The scores of a row's rates on a task with the first seed, by rate. Regret is against the best test score of all
    the row's rates, which no choice is made by."""
    known = [(point, record) for point, record in cell.screened if record is not None and not point.changes]
    tests = [record.test.value for _, record in known if record.test is not None]
    best = max(tests, default=0.0)
    return [
        RatePoint(
            rate=point.rate,
            selection=None if record.selection is None else record.selection.value,
            test=None if record.test is None else record.test.value,
            regret=None if record.test is None else best - record.test.value,
        )
        for point, record in sorted(known, key=lambda pair: pair[0].rate)
    ]


def regret_at(curve: Sequence[RatePoint], rate: float) -> float | None:
    """The regret of a rate between those that were run, on a line over the logarithm of the rate; beyond them that of
    the nearest. None where no neighbour has a score."""
    known = [(np.log(point.rate), point.regret) for point in curve if point.regret is not None]
    if not known:
        return None
    places, values = zip(*known, strict=True)
    return float(np.interp(np.log(rate), places, values))


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names on the Pareto front of (cost, score): no other is as cheap and as good, and better in one of the two.

    >>> front({"a": (1, 0.8), "b": (2, 0.9), "c": (3, 0.85)})
    ['a', 'b']
    """

    def beaten(name: str) -> bool:
        cost, score = points[name]
        others = (pair for other, pair in points.items() if other != name)
        return any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in others)

    return sorted((name for name in points if not beaten(name)), key=lambda name: points[name])


def main_machine(records: Sequence[RunRecord]) -> str:
    """The label of the machine that most of the records were made on; a table's times and memory are of it alone."""
    labels = [record.machine.label for record in records]
    return max(sorted(set(labels)), key=labels.count, default="")


def _costs(records: Sequence[RunRecord], machine: str) -> Costs:
    def mean(values: list[Any]) -> float | None:
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    counts = [record.parameters for record in records if record.parameters is not None]
    here = [record for record in records if record.machine.label == machine]
    return Costs(
        start=fmean(c.start for c in counts), average=fmean(c.average for c in counts),
        end=fmean(c.end for c in counts), flops=mean([record.flops for record in records]),
        seconds=mean([record.train_seconds for record in here]),
        peak_bytes=mean([record.peak_bytes for record in here]),
        adapter_bytes=mean([record.adapter_bytes for record in records]),
    )  # fmt: skip
