"""Evaluates and applies trained models: what ``tapertune evaluate`` and ``tapertune predict`` do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import TapertuneError
from ..host import updates_kept
from ..runfile.blocks import TaskBlock
from ..runfile.settings import check_task
from ..tasks import Task
from ..tasks import data as rows_of
from ..tasks.counts import Counts
from ..tasks.counts import notes as notes_of
from ..tasks.csv_files import CsvFormat
from ..tasks.encode import encode
from ..tasks.fields import BadField, Numbered, Row
from ..tasks.files import Table
from ..tasks.kinds import Example, get_kind
from ..tasks.output import ENDINGS, written_rows
from ..tasks.sniff import open_data
from .distributed import is_first
from .measure import Measured, measure
from .prepare import check_model_length, data_notes
from .trained_folder import TrainedFolder, forward_with, load_trained, open_folder, task_of

Progress = Callable[[int], None]
Start = Callable[[int], Progress]
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
        train=block.train,
        validation=block.validation,
        validation_rows=block.validation_rows,
        skip_bad_rows=block.skip_bad_rows,
        form=block.form,
    )
    model, tokenizer = load_trained(folder, chosen)
    check_model_length(folder.base, model, chosen.max_length)
    encoded = {
        name: encode(chosen, split.examples, tokenizer, chosen.max_length, train=False)
        for name, split in splits.items()
    }
    notes = [note for split in splits.values() for note in split.notes]
    notes += [note for name, split in splits.items() for note in data_notes(chosen, split, encoded[name])]
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
    overwrite: bool = False,
    start: Start,
    **given: Any,
) -> tuple[int, list[str]]:
    """Writes a file's rows with the model's answers; returns their number and notes.

    Args:
        path, task, base, batch_size, start, **given: as those of ``evaluate``.
        file: with the rows.
        out: is written when all is done.
        overwrite: replace a file that is there, and columns of the rows that are called as those of answers.

    Raises:
        TapertuneError: something of that cannot be used; ``out`` is not written then.
    """
    if not out.name.endswith(ENDINGS):
        raise TapertuneError(f"--out is {str(out)!r}; its name must end in {' or '.join(ENDINGS)}")
    if out.exists() and file.exists() and out.samefile(file):
        raise TapertuneError(f"--out is {str(out)!r}, the file with the rows: name another")
    check_out(out, overwrite=overwrite)
    folder = open_folder(path, base)
    block = task_block(folder, task, given)
    chosen = task_of(folder, block)
    kind = get_kind(chosen.kind)
    table = open_data(file, block.form if block else CsvFormat())
    columns: dict[str, None] = {}
    noted = _noting(table, columns)
    checked = rows_of.check(chosen, noted, block.skip_bad_rows if block else False, labelled=False)
    answered = kind.answer_columns(chosen)
    if not overwrite and (own := next((name for name in answered if name in columns), None)):
        raise TapertuneError(f"{table.name} has a column {own!r} itself: --overwrite puts the answers in its place")
    notes = [*table.notes, *([checked.skipped] if checked.skipped else [])]
    count = len(checked)
    del checked
    model, tokenizer = load_trained(folder, chosen)
    check_model_length(folder.base, model, chosen.max_length)
    forward = forward_with(folder, model, tokenizer, batch_size, start(count))
    cut = 0
    columns.update(dict.fromkeys(answered))
    # Of several processes the first one writes.
    writing = written_rows(out, list(columns)) if is_first() else nullcontext(lambda row: None)
    with writing as write, updates_kept(model):
        usable = _usable(chosen, table)
        while chunk := list(islice(usable, _CHUNK)):
            encoded = encode(chosen, [example for _, example in chunk], tokenizer, chosen.max_length, train=False)
            cut += encoded.truncated
            answers = kind.predict(chosen, forward, encoded).answers
            for (row, _), answer in zip(chunk, answers, strict=True):
                write({**row, **kind.shown(chosen, answer)})
    return count, notes + notes_of(chosen, table.name, Counts(rows=count, cut=cut), train=False)


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raises TapertuneError if a file cannot be written there, or is there already and is not to be replaced."""
    if not out.parent.is_dir():
        raise TapertuneError(f"--out is {str(out)!r}, but there is no folder {str(out.parent)!r}")
    if out.is_dir() or not os.access(out.parent, os.W_OK | os.X_OK):
        raise TapertuneError(f"--out is {str(out)!r}, which cannot be written to")
    if os.path.lexists(out) and not overwrite:
        raise TapertuneError(f"--out is {str(out)!r}, which is there already: --overwrite replaces it")


def _usable(task: Task, table: Table) -> Iterator[tuple[Row, Example]]:
    kind = get_kind(task.kind)
    for _, row in table.rows():
        try:
            example = kind.check(task, row, labelled=False)
        except BadField:
            continue  # counted and told of when the file was checked
        yield row, example


def _noting(table: Table, columns: dict[str, None]) -> Table:
    """The table, noting the columns of the rows that are read."""

    def read() -> Numbered:
        for number, row in table.read():
            if not isinstance(row, BadField):
                columns.update(dict.fromkeys(row))
            yield number, row

    return replace(table, read=read)
