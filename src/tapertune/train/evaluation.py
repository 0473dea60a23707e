"""Evaluates and applies trained models: what ``tapertune evaluate`` and ``tapertune predict`` do."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ..errors import TapertuneError
from ..host import updates_kept
from ..runfile.blocks import TaskBlock
from ..runfile.settings import check_task
from ..tasks import Task
from ..tasks import data as rows_of
from ..tasks.counts import Counts
from ..tasks.counts import notes as notes_of
from ..tasks.encode import encode
from ..tasks.fields import BadField
from ..tasks.files import Row, Table, open_table
from ..tasks.kinds import Example, get_kind
from .distributed import is_first
from .measure import Measured, measure
from .prepare import check_model_length, data_notes
from .trained_folder import TrainedFolder, forward_with, load_trained, open_folder, task_of

Progress = Callable[[int], None]
Start = Callable[[int], Progress]
WRITTEN = (".jsonl", ".csv")
_CHUNK = 4096  # rows in memory at once


def task_block(folder: TrainedFolder, name: str | None, given: Mapping[str, Any]) -> TaskBlock | None:
    """The task block to go by: that of the folder's run with changes, or one of another task; None without either."""
    own = folder.settings.task.model_dump() if folder.settings else {}
    if name is not None and name != own.get("name"):
        own = {"name": name}
    if not own and not given:
        return None
    changes = dict(given)
    if {"data", "train", "validation", "hub"} & set(changes):
        own = {key: value for key, value in own.items() if key not in ("data", "train", "validation", "hub")}
    return check_task({**own, **changes})


def evaluate(
    path: Path,
    *,
    task: str | None = None,
    base: str | None = None,
    batch_size: int | None = None,
    start: Start,
    **given: Any,
) -> tuple[Task, dict[str, Measured], list[str]]:
    """(the task, its scores by split, notes) of a trained model.

    Args:
        path: an adapter's folder, or a whole model's.
        task: name of the task; without it, the one of the folder's run.
        base: the base model, instead of the one that the folder names.
        batch_size: rows of a batch, instead of the run's own.
        start: told the number of rows; returns what is told of those that are done.
        **given: settings of the task block.

    Raises:
        TapertuneError: something of that cannot be used.
    """
    folder = open_folder(path, base)
    block = task_block(folder, task, given)
    chosen = task_of(folder, block)
    assert block is not None, "task_of refuses a folder without any task"
    splits = rows_of.load_evaluation(
        chosen,
        data=block.data,
        validation=block.validation,
        validation_rows=block.validation_rows,
        skip_bad_rows=block.skip_bad_rows,
    )
    model, tokenizer = load_trained(folder, chosen)
    check_model_length(folder.base, model, chosen.max_length)
    encoded = {
        name: encode(chosen, split.examples, tokenizer, chosen.max_length, train=False)
        for name, split in splits.items()
    }
    notes = [note for name, split in splits.items() for note in data_notes(chosen, split, encoded[name])]
    forward = forward_with(folder, model, tokenizer, batch_size, start(sum(map(len, encoded.values()))))
    return chosen, {name: measure(chosen, forward, rows) for name, rows in encoded.items()}, notes


def predict(
    path: Path,
    file: Path,
    out: Path,
    *,
    task: str | None = None,
    base: str | None = None,
    batch_size: int | None = None,
    start: Start,
    **given: Any,
) -> tuple[int, list[str]]:
    """Writes a file's rows with the model's answers; returns their number and notes. The other arguments are those of
    ``evaluate``.

    Raises:
        TapertuneError: something of that cannot be used; ``out`` is not written then.
    """
    if not out.name.endswith(WRITTEN):
        raise TapertuneError(f"--out is {str(out)!r}; its name must end in {' or '.join(WRITTEN)}")
    check_out(out)
    if out.exists() and file.exists() and out.samefile(file):
        raise TapertuneError(f"--out is {str(out)!r}, the file with the rows: name another")
    folder = open_folder(path, base)
    block = task_block(folder, task, given)
    chosen = task_of(folder, block)
    table = open_table(file)
    checked = rows_of.check(chosen, table, block.skip_bad_rows if block else False, labelled=False)
    notes = [checked.skipped] if checked.skipped else []
    count = len(checked)
    del checked
    model, tokenizer = load_trained(folder, chosen)
    check_model_length(folder.base, model, chosen.max_length)
    forward = forward_with(folder, model, tokenizer, batch_size, start(count))
    cut, kind = 0, get_kind(chosen.kind)
    with _writer(out) as write, updates_kept(model):
        usable = _usable(chosen, table)
        while chunk := list(islice(usable, _CHUNK)):
            encoded = encode(chosen, [example for _, example in chunk], tokenizer, chosen.max_length, train=False)
            cut += encoded.truncated
            answers = kind.predict(chosen, forward, encoded).answers
            for (row, _), answer in zip(chunk, answers, strict=True):
                write({**row, **kind.shown(chosen, answer)})
    return count, notes + notes_of(chosen, table.name, Counts(rows=count, cut=cut), train=False)


def check_out(out: Path) -> None:
    """Raises TapertuneError if a file cannot be written there."""
    if not out.parent.is_dir():
        raise TapertuneError(f"--out is {str(out)!r}, but there is no folder {str(out.parent)!r}")
    if out.is_dir() or not os.access(out.parent, os.W_OK | os.X_OK):
        raise TapertuneError(f"--out is {str(out)!r}, which cannot be written to")


def _usable(task: Task, table: Table) -> Iterator[tuple[Row, Example]]:
    kind = get_kind(task.kind)
    for _, row in table.rows():
        try:
            example = kind.check(task, row, labelled=False)
        except BadField:
            continue  # counted and told of when the file was checked
        yield row, example


@contextmanager
def _writer(out: Path) -> Iterator[Callable[[Row], None]]:
    """Writes rows to a file that appears when all of them are written; the first process does."""
    if not is_first():
        yield lambda row: None
        return
    temporary = out.with_name(out.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            yield _csv_rows(file) if out.name.endswith(".csv") else _json_rows(file)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _json_rows(file: IO[str]) -> Callable[[Row], None]:
    def write(row: Row) -> None:
        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    return write


def _csv_rows(file: IO[str]) -> Callable[[Row], None]:
    writers: list[csv.DictWriter[str]] = []

    def write(row: Row) -> None:
        if not writers:
            writers.append(csv.DictWriter(file, list(row), extrasaction="ignore"))
            writers[0].writeheader()
        plain = {k: json.dumps(v, ensure_ascii=False) if isinstance(v, list | dict) else v for k, v in row.items()}
        writers[0].writerow(plain)

    return write
