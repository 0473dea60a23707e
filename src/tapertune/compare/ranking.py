"""What a store says of methods: the score of each at its best settings, for ordering what is planned."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ..errors import TapertuneError
from .record import RunRecord
from .store import HEADER, Store


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A method's score in a store.

    Attributes:
        row: of the grid, the method's best.
        tasks: whose scores it is the mean of.
        value: mean over seeds of the test's score, or of the selection's where no test was read.
        runs: how many it is the mean of.
    """

    row: str
    tasks: tuple[str, ...]
    value: float
    runs: int


def measured_scores(folder: Path, task: str) -> dict[str, Measured]:
    """By method, its score on a task; where the store has nothing of the task, over all tasks that every row has.

    Raises:
        TapertuneError: the folder is no store, or a file in it is no record.
    """
    if not (folder / HEADER).is_file():
        raise TapertuneError(f"--store {str(folder)!r} is no store: it has no {HEADER}")
    rows: dict[str, dict[str, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    names: dict[str, str] = {}
    for record in Store(folder).records().values():
        if record.selection is not None:
            rows[record.row][record.task].append(record)
            names[record.row] = str(record.method["name"])
    known = {name for tasks in rows.values() for name in tasks}
    wanted = {task} if task in known else {name for name in known if all(name in tasks for tasks in rows.values())}
    found: dict[str, Measured] = {}
    for row, tasks in rows.items():
        if not wanted or not wanted <= set(tasks):
            continue
        best = [_best(tasks[name]) for name in sorted(wanted)]
        value = fmean(score for score, _ in best)
        one = Measured(row=row, tasks=tuple(sorted(wanted)), value=value, runs=sum(count for _, count in best))
        before = found.get(names[row])
        if before is None or one.value > before.value:
            found[names[row]] = one
    return found


def _best(records: list[RunRecord]) -> tuple[float, int]:
    """The score at the settings that the selection chooses, and of how many runs; those with most seeds go first."""
    points: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        points[repr((record.rate, sorted(record.changes.items())))].append(record)
    most = max(len(each) for each in points.values())
    chosen = max(
        (each for each in points.values() if len(each) == most),
        key=lambda each: fmean(r.selection.value for r in each if r.selection is not None),
    )
    tests = [r.test.value for r in chosen if r.test is not None]
    scores = tests or [r.selection.value for r in chosen if r.selection is not None]
    return fmean(scores), len(scores)
