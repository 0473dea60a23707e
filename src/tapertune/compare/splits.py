"""The three splits of a task: rows to train on, rows to choose by, and the test, which no choice sees.

Rows are drawn once, the same whenever they are drawn from the same files, and kept in a folder that is named after
what they were drawn from, so that every run of every process reads the same rows.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TapertuneError
from ..files import write_text
from ..tasks import Task
from ..tasks import data as data_of
from ..tasks.files import Row, Table, open_table
from ..tasks.kinds import get_kind
from .grid import TaskSource

TOLERATED = 0.01  # share of training rows that may also be test rows; they are left out
SPLITS = ("train", "selection", "test")


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A task's rows as files.

    Attributes:
        files: of training, selection and test rows.
        counts: their rows, by split.
        digests: of what they hold, by split.
        notes: what a user should know of them.
    """

    files: dict[str, Path]
    counts: dict[str, int]
    digests: dict[str, str]
    notes: tuple[str, ...] = ()


def make_splits(name: str, source: TaskSource, task: Task, data: Path | None, folder: Path) -> Splits:
    """Draws a task's rows and writes them into a folder of their own.

    Args:
        name: of the task in the grid.
        source: what the grid says of it.
        task: its declaration.
        data: where tasks' files are, for tasks that name none.
        folder: where drawn rows are kept.

    Raises:
        TapertuneError: files or columns are missing, rows are too few, a split is empty or overlaps the test.
    """
    training, test = _tables(name, source, task, data)
    kind = get_kind(task.kind)
    for table in (training, test):
        data_of.check_columns(kind, task, table)
    test_rows = _rows(test)[: source.test_rows]
    known = {_key(task, row) for row in test_rows}
    train_rows = _rows(training)
    notes: list[str] = []
    if source.selection is not None:
        table = _open(name, "selection", source.selection)
        data_of.check_columns(kind, task, table)
        selection = _rows(table)
        _check_apart(name, f"selection ({table.name})", selection, known, task)
        selection = _shuffled(selection)[: source.selection_rows] if source.selection_rows else selection
        known |= {_key(task, row) for row in selection}
        wanted: list[int | None] = [source.train_rows]
    else:
        if source.selection_rows is None:
            raise TapertuneError(f"tasks.{name}.selection_rows is missing: name a selection file, or how many to draw")
        selection = []
        wanted = [source.train_rows, source.selection_rows]
    both = sum(_key(task, row) in known for row in train_rows)
    if both > TOLERATED * len(train_rows):
        raise TapertuneError(
            f"tasks.{name}: {both} of {len(train_rows)} rows of {training.name} are also in the test or selection rows:"
            " a test must hold rows that no run trains on"
        )
    if both:
        notes.append(f"{name}: {both} training rows are also test or selection rows, and are left out")
    parts = _draw(name, training.name, train_rows, task, known, wanted)
    parts = [*parts, selection] if source.selection is not None else parts
    return _written(name, folder, dict(zip(SPLITS, [*parts, test_rows], strict=True)), tuple(notes))


def _tables(name: str, source: TaskSource, task: Task, data: Path | None) -> tuple[Table, Table]:
    if (source.train is None) != (source.test is None):
        raise TapertuneError(f"tasks.{name}.train and tasks.{name}.test go together: name both files")
    if source.train is not None and source.test is not None:
        return _open(name, "train", source.train), _open(name, "test", source.test)
    folder = source.data if source.data is not None else None if data is None else str(data)
    if folder is None and task.hub is None:
        raise TapertuneError(f"tasks.{name} names no files: give train and test, data, or the command's --data")
    training, evaluation = data_of.tables(task, data=folder)
    return training, evaluation[next(iter(evaluation))]


def _open(name: str, field: str, path: str) -> Table:
    try:
        return open_table(Path(path))
    except TapertuneError as error:
        raise TapertuneError(f"tasks.{name}.{field}: {error}") from error


def _rows(table: Table) -> list[Row]:
    rows = [row for _, row in table.rows()]
    if not rows:
        raise TapertuneError(f"{table.name} is empty: it holds no rows")
    return rows


def _key(task: Task, row: Row) -> str:
    return json.dumps([row.get(column) for column in task.text], default=str)


def _check_apart(name: str, what: str, rows: Sequence[Row], known: set[str], task: Task) -> None:
    both = sum(_key(task, row) in known for row in rows)
    if both:
        raise TapertuneError(f"tasks.{name}: {both} of {len(rows)} rows of {what} are also in the test")


def _shuffled(rows: Iterable[Row]) -> list[Row]:
    shuffled = list(rows)
    random.Random(0).shuffle(shuffled)
    return shuffled


def _draw(
    name: str, file: str, rows: Sequence[Row], task: Task, known: set[str], sizes: Sequence[int | None]
) -> list[list[Row]]:
    """Parts of the rows, of the sizes wanted; a size of None takes what the others leave. A text is drawn once at most,
    and not at all if it is known."""
    kept: list[Row] = []
    met = set(known)
    for row in _shuffled(rows):
        if (key := _key(task, row)) not in met:
            met.add(key)
            kept.append(row)
    fixed = sum(size or 0 for size in sizes)
    if len(kept) < fixed or (None in sizes and len(kept) <= fixed):
        need = f"{fixed} are needed" if None not in sizes else f"{fixed} are drawn before the others"
        raise TapertuneError(f"tasks.{name}: {len(kept)} rows of {file} can be drawn; {need}")
    full = [len(kept) - fixed if size is None else size for size in sizes]
    starts = [sum(full[:number]) for number in range(len(full))]
    return [kept[start : start + size] for start, size in zip(starts, full, strict=True)]


def _written(name: str, folder: Path, parts: dict[str, list[Row]], notes: tuple[str, ...]) -> Splits:
    texts = {split: "".join(json.dumps(row, default=str) + "\n" for row in rows) for split, rows in parts.items()}
    digests = {split: hashlib.sha256(text.encode()).hexdigest()[:16] for split, text in texts.items()}
    place = folder / f"{name}-{hashlib.sha256(''.join(digests.values()).encode()).hexdigest()[:12]}"
    place.mkdir(parents=True, exist_ok=True)
    files = {split: place / f"{split}.jsonl" for split in texts}
    for split, text in texts.items():
        if not files[split].is_file() or files[split].stat().st_size != len(text.encode()):
            write_text(files[split], text)
    return Splits(files=files, counts={s: len(rows) for s, rows in parts.items()}, digests=digests, notes=notes)


def task_fields(source: TaskSource) -> dict[str, Any]:
    """A run file's task block of a source, without its files."""
    return {"name": source.task, **source.fields}
