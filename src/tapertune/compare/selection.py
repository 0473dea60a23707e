"""What of a grid is left to run, and which point of a row is chosen: by selection scores alone, never by the test."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

from .jobs import Comparison, Job
from .points import Point
from .record import RunRecord

Records = Mapping[str, RunRecord]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A row on a task, with what is recorded of it.

    Attributes:
        row, task: which.
        screened: the first seed's record of each point; None where it failed or is not made yet.
        complete: whether every point has been screened.
        finalists: the best points of the screen, best first; none until it is complete.
        runs: the records of each finalist, by seed.
    """

    row: str
    task: str
    screened: tuple[tuple[Point, RunRecord | None], ...]
    complete: bool
    finalists: tuple[Point, ...]
    runs: tuple[tuple[Point, dict[int, RunRecord]], ...]

    @property
    def chosen(self) -> tuple[Point, list[RunRecord]] | None:
        """The finalist with the best mean selection score, and its records by seed; None where nothing can be chosen.

        Finalists that have not run with as many seeds as another are not chosen before it. A seed that diverged counts
        as the worst score that the metric's finalists have.
        """
        kept = [(point, list(found.values())) for point, found in self.runs if found]
        if not kept:
            return None
        most = max(len(found) for _, found in kept)
        kept = [(point, found) for point, found in kept if len(found) == most]
        scores = [r.selection.value for _, found in kept for r in found if r.selection is not None]
        worst = min(scores, default=0.0)

        def mean(pair: tuple[Point, list[RunRecord]]) -> float:
            return fmean(worst if r.selection is None else r.selection.value for r in pair[1])

        return max(kept, key=mean)


def cell_of(comparison: Comparison, records: Records, row: str, task: str, failed: Collection[str] = ()) -> Cell:
    """What is recorded of a row on a task.

    Args:
        comparison: the grid.
        records: by digest.
        row, task: which.
        failed: digests of runs that failed and are not to be waited for.
    """
    first = comparison.grid.seeds[0]
    jobs = [(point, comparison.job(row, task, point, first)) for point in comparison.points[row]]
    screened = [(point, records.get(job.digest)) for point, job in jobs]
    complete = all(job.digest in records or job.digest in failed for _, job in jobs)
    finalists: list[Point] = []
    if complete:
        usable = [(p, r) for p, r in screened if r is not None and r.selection is not None and r.stopped is None]
        # of equals the smaller rate, which is the first
        ranked = sorted(usable, key=lambda pair: -pair[1].selection.value)  # pyright: ignore[reportOptionalMemberAccess]
        finalists = [point for point, _ in ranked[: comparison.grid.best]]
    runs = []
    for point in finalists:
        found = {seed: comparison.job(row, task, point, seed).digest for seed in comparison.grid.seeds}
        runs.append((point, {seed: records[digest] for seed, digest in found.items() if digest in records}))
    return Cell(
        row=row, task=task, screened=tuple(screened), complete=complete, finalists=tuple(finalists), runs=tuple(runs)
    )


def jobs_left(comparison: Comparison, records: Records, failed: Collection[str] = ()) -> Iterator[Job]:
    """The runs that can be made now, task by task: a row's points with the first seed, and once all of them have run,
    the best of them with the other seeds."""
    first, *others = comparison.grid.seeds
    for task, row in comparison.cells():
        jobs = [comparison.job(row, task, point, first) for point in comparison.points[row]]
        left = [job for job in jobs if job.digest not in records and job.digest not in failed]
        if not left:
            cell = cell_of(comparison, records, row, task, failed)
            jobs = [comparison.job(row, task, point, seed) for point in cell.finalists for seed in others]
            left = [job for job in jobs if job.digest not in records and job.digest not in failed]
        yield from left
