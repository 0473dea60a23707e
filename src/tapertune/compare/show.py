"""What a grid shows while it runs: a live table on a terminal, a line for each run elsewhere."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from statistics import fmean

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .driver import Progress
from .jobs import Comparison
from .selection import cell_of

_REFRESH = 2.0  # seconds between two tables


def hours(seconds: float) -> str:
    """A stretch of time for people.

    >>> hours(40), hours(150), hours(5400), hours(1e6)
    ('40 s', '2 min', '1.5 h', '278 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36000 else f"{seconds / 3600:,.0f} h"


def seconds_a_run(progress: Progress) -> float | None:
    """Mean seconds of the runs recorded so far; None while there are none."""
    walls = [record.wall_seconds for record in progress.records.values()]
    return fmean(walls) if walls else None


class Show:
    """Follows a grid."""

    def __init__(self, comparison: Comparison, jobs: int, console: Console | None = None) -> None:
        self._comparison, self._jobs = comparison, jobs
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._told: set[str] = set()
        self._first, self._drawn = True, 0.0

    def context(self) -> AbstractContextManager[object]:
        return self._live if self._live is not None else nullcontext()

    def __call__(self, progress: Progress) -> None:
        if self._live is None:
            self._lines(progress)
        elif time.monotonic() - self._drawn > _REFRESH:
            self._drawn = time.monotonic()
            self._live.update(self._table(progress), refresh=True)

    def _lines(self, progress: Progress) -> None:
        new = [record for digest, record in progress.records.items() if digest not in self._told]
        self._told |= set(progress.records)
        if self._first:
            self._first = False
        else:
            for record in new:
                score = "diverged" if record.selection is None else f"selection {record.selection.value:.4f}"
                place = f"{record.row} on {record.task}, rate {record.rate:g}, seed {record.seed}"
                self._console.print(f"{place}: {score}; {self.left(progress)}", highlight=False, soft_wrap=True)
        for label, reason in progress.failures.items():
            if label not in self._told:
                self._told.add(label)
                self._console.print(f"failed: {label}: {reason}", highlight=False, soft_wrap=True, markup=False)

    def left(self, progress: Progress) -> str:
        """How many runs are done, and what time is left."""
        done = self._done(progress)
        each = seconds_a_run(progress)
        rest = max(0, progress.total - done - len(progress.failures))
        time_left = "" if each is None else f", about {hours(rest * each / max(1, self._jobs))} left"
        return f"{done} of at most {progress.total} runs{time_left}"

    def _done(self, progress: Progress) -> int:
        return sum(1 for record in progress.records.values() if record.task in self._comparison.grid.tasks)

    def _table(self, progress: Progress) -> Group:
        tasks = list(self._comparison.grid.tasks)
        table = Table("row", *tasks, box=None, pad_edge=False)
        for row in self._comparison.grid.rows:
            table.add_row(row, *(self._cell(progress, row, task) for task in tasks))
        lines = [f"running: {job.label}" for job in progress.running]
        lines += [f"failed: {label}: {reason}" for label, reason in list(progress.failures.items())[-5:]]
        return Group(
            table, Text(self.left(progress)), *(Text(line, overflow="ellipsis", no_wrap=True) for line in lines)
        )

    def _cell(self, progress: Progress, row: str, task: str) -> str:
        if row not in self._comparison.grid.rows_on(task):
            return ""
        cell = cell_of(self._comparison, progress.records, row, task)
        done = [record for _, record in cell.screened if record is not None]
        scores = [record.selection.value for record in done if record.selection is not None]
        best = f" best {max(scores):.3f}" if scores else ""
        if not cell.complete:
            return f"{len(done)}/{len(cell.screened)}{best}"
        finals = sum(len(found) for _, found in cell.runs)
        return f"seeds {finals}/{len(cell.finalists) * len(self._comparison.grid.seeds)}{best}"
