"""The rate that ``auto`` takes, run beside the tuned ones: what one loses who does not tune."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from .jobs import Comparison, Job
from .points import Point
from .record import RunRecord
from .selection import Cell, Records, cell_of
from .statistics import Difference, difference

RateOf = Callable[[RunRecord], "float | None"]
"""The rule's learning rate for a run; None where it has none. ``rule.rule_of`` makes that of ``auto``."""


@dataclass(frozen=True, kw_only=True)
class AutoResult:
    """A row at the rule's rate on a task, beside its tuned point.

    Attributes:
        point: the rule's rate.
        runs: its records by seed.
        gap: test scores against those of the chosen point, over the seeds that both have; None where there are none.
    """

    point: Point
    runs: dict[int, RunRecord]
    gap: Difference | None


def auto_point(cell: Cell, rule: RateOf) -> Point | None:
    """The rule's rate for runs of a cell; None until one has come to its end, as the rule asks for a run's steps."""
    record = next((record for _, record in cell.screened if record is not None and record.steps is not None), None)
    rate = None if record is None else rule(record)
    return None if rate is None else Point(rate=float(rate))


def auto_jobs(
    comparison: Comparison, records: Records, rule: RateOf | None, failed: Collection[str] = ()
) -> Iterator[Job]:
    """Runs at the rule's rate that have no record, of the rows that were screened; none where the grid does not ask for
    them. With the first seed, and once the finals are made with all seeds."""
    if rule is None or not comparison.grid.auto:
        return
    for task, row in comparison.cells():
        cell = cell_of(comparison, records, row, task, failed)
        point = auto_point(cell, rule) if cell.complete else None
        if point is None:
            continue
        final = all(len(found) == len(comparison.grid.seeds) for _, found in cell.runs)
        for seed in comparison.grid.seeds if final else comparison.grid.seeds[:1]:
            job = comparison.job(row, task, point, seed)
            if job.digest not in records and job.digest not in failed:
                yield job


def auto_result(comparison: Comparison, records: Records, cell: Cell, rule: RateOf | None) -> AutoResult | None:
    """What is recorded of a cell at the rule's rate; None where nothing is."""
    point = None if rule is None else auto_point(cell, rule)
    if point is None:
        return None
    jobs = {seed: comparison.job(cell.row, cell.task, point, seed).digest for seed in comparison.grid.seeds}
    runs = {seed: records[digest] for seed, digest in jobs.items() if digest in records}
    scored = {seed: record for seed, record in runs.items() if record.test is not None}
    if not runs:
        return None
    tuned = {} if cell.chosen is None else {r.seed: r for r in cell.chosen[1] if r.test is not None}
    return AutoResult(point=point, runs=runs, gap=difference(scored, tuned))
