"""Finds a task's rows, on disk or on the hub, and checks every one of them before anything is written.

Where ``--data DIR`` is looked at: ``DIR/<task>/`` if there is such a folder, else ``DIR/``; in it ``train`` and
``validation`` (or ``heldout``, or what the task's ``files`` names), each ending in one of ``tasks.files.SUFFIXES``.
MNLI's two evaluation splits are ``validation_matched`` and ``validation_mismatched``. ``sample`` names the sample that
comes with the package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TypeVar

from ..errors import TapertuneError, nearest
from .base import Task
from .csv_files import CsvFormat
from .declare import OWN
from .fields import BadField, UnknownLabel
from .files import CSV, SUFFIXES, Table
from .held_out import divide
from .hub import hub_tables, no_files
from .kinds import Example, Kind, get_kind
from .remarks import label_remarks, overlap_remarks
from .sniff import open_data

SAMPLE = "sample"
TOLERATED = 0.01  # share of rows that cannot be used beyond which a run stops
_NAMED = 8  # so many places are named in a message
_LISTED = 20  # so many columns
_GUESSED = 1000  # among more columns none is looked for that is like a misspelt one
_ANY = CsvFormat()
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Checked rows, in the form of the task's kind.

    Attributes:
        examples: one a row.
        name: of the file or the hub's split.
        skipped: a note on rows that could not be used, or None.
        bad: their number.
        notes: on how the file is read.
    """

    examples: list[Example] = field(repr=False)
    name: str = ""
    skipped: str | None = None
    bad: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True, kw_only=True)
class Data:
    """A task's checked data. ``task`` has its labels; ``evaluation`` maps split names to rows, main one first.

    ``train`` is a table whose rows are not checked yet where the data are streamed. ``notes`` say what is likely a
    slip.
    """

    task: Task
    train: Split | Table
    evaluation: dict[str, Split]
    notes: list[str] = field(default_factory=list)


def load(
    task: Task,
    *,
    data: str | None = None,
    train: str | None = None,
    validation: str | float | None = None,
    train_rows: int | None = None,
    validation_rows: int | None = None,
    skip_bad_rows: bool = False,
    stream: bool = False,
    form: CsvFormat = _ANY,
) -> Data:
    """Reads and checks a task's rows.

    Args:
        task: the declaration.
        data: a folder, or ``sample``.
        train, validation: files, instead of a folder; or validation is the share of the training rows that is held out.
        train_rows, validation_rows: take the first so many rows only.
        skip_bad_rows: leave out rows that cannot be used, however many.
        stream: leave the training rows where they are.
        form: how CSV files are written.

    Raises:
        TapertuneError: a file or column is missing, or rows are wrong; the message names file, line and field.
    """
    training, evaluation = _tables(task, data, train, validation, form, stream=stream)
    training = _first(training, train_rows)
    kind = get_kind(task.kind)
    check_columns(kind, task, training)
    task = kind.prepare(task, training.rows())
    splits = {name: check(task, _first(table, validation_rows), skip_bad_rows) for name, table in evaluation.items()}
    for split in splits.values():
        kind.check_split(task, split.examples, split.name)
    rows = training if stream else check(task, training, skip_bad_rows)
    known = rows.examples if isinstance(rows, Split) else None
    notes = list(dict.fromkeys(note for table in (training, *evaluation.values()) for note in table.notes))
    notes += label_remarks(task, None if known is None else len(known))
    held_out = {name: (split.name, split.examples) for name, split in splits.items()}
    notes += overlap_remarks(training.name, known, held_out)
    return Data(task=task, train=rows, evaluation=splits, notes=notes)


def training_table(
    task: Task,
    *,
    data: str | None = None,
    train: str | None = None,
    validation: str | float | None = None,
    form: CsvFormat = _ANY,
) -> Table:
    """The training rows alone, as they are in their file. Arguments and errors are those of ``load``."""
    whole = _training_file(task, data, train, form)
    return whole if validation is None or isinstance(validation, str) else divide(whole, validation)[0]


def _training_file(task: Task, data: str | None, train: str | None, form: CsvFormat, *, stream: bool = False) -> Table:
    if train is not None:
        return open_data(Path(train), form)
    if data is None:
        return hub_tables(task, ("train",), stream=stream)["train"]
    return open_data(_required(_data_folder(task, data), _stems(task, "train")), form)


def check_files(
    task: Task,
    *,
    data: str | None = None,
    train: str | None = None,
    validation: str | float | None = None,
    form: CsvFormat = _ANY,
) -> None:
    """Are the files that are named there, and do they have the task's columns? Of each only the first row is read, and
    nothing of what is on the hub. Arguments are those of ``load``.

    Raises:
        TapertuneError: a file is missing or cannot be read, or lacks a column.
    """
    if data is None and train is None and validation is None:
        if task.hub is None and task.name in OWN:
            raise no_files(task)
        return
    missing = [name for name in (train, validation) if isinstance(name, str) and not _is_there(Path(name))]
    if len(missing) > 1:
        raise TapertuneError(f"no such files: {', '.join(map(repr, missing))}")
    training, evaluation = _tables(task, data, train, validation, form)
    for table in (training, *evaluation.values()):
        check_columns(get_kind(task.kind), task, table)


def tables(task: Task, *, data: str | None = None) -> tuple[Table, dict[str, Table]]:
    """The training table and those to evaluate by split, main one first; rows are not checked.

    Args:
        task: the declaration.
        data: a folder, or ``sample``; None for the hub.

    Raises:
        TapertuneError: a file is missing.
    """
    return _tables(task, data, None, None, _ANY)


def load_evaluation(
    task: Task,
    *,
    data: str | None = None,
    train: str | None = None,
    validation: str | float | None = None,
    validation_rows: int | None = None,
    skip_bad_rows: bool = False,
    form: CsvFormat = _ANY,
) -> dict[str, Split]:
    """The splits to evaluate alone, of a task whose labels are known. Arguments and errors are those of ``load``;
    ``train`` is read only where a share of it is what is evaluated."""
    if validation is not None and not isinstance(validation, str):
        tables = {task.evaluation[0]: divide(_training_file(task, data, train, form), validation)[1]}
    elif validation is not None:
        tables = {task.evaluation[0]: open_data(Path(validation), form)}
    elif data is None:
        tables = hub_tables(task, task.evaluation)
    else:
        tables = _evaluation_tables(task, _data_folder(task, data), form)
    splits = {name: check(task, _first(table, validation_rows), skip_bad_rows) for name, table in tables.items()}
    for split in splits.values():
        get_kind(task.kind).check_split(task, split.examples, split.name)
    return splits


def check(task: Task, table: Table, skip_bad_rows: bool = False, *, labelled: bool = True) -> Split:
    """All rows of a table, checked.

    Raises:
        TapertuneError: a column is missing, a label is none of the task's, or too many rows cannot be used.
    """
    kind = get_kind(task.kind)
    check_columns(kind, task, table, labelled=labelled)
    examples: list[Example] = []
    bad: list[tuple[int, str]] = []
    for number, found in checked_rows(kind, task, table, labelled=labelled):
        if isinstance(found, BadField):
            bad.append((number, str(found)))
        else:
            examples.append(found)
    skipped = _skipped(table, bad, len(examples) + len(bad), skip_bad_rows) if bad else None
    if not examples:
        raise TapertuneError(f"{table.name}: no row can be used; {table.where(bad[0][0])}: {bad[0][1]}")
    return Split(examples=examples, name=table.name, skipped=skipped, bad=len(bad), notes=table.notes)


def checked_rows(
    kind: Kind, task: Task, table: Table, *, labelled: bool = True
) -> Iterator[tuple[int, Example | BadField]]:
    """Each row by its number: checked, or what is wrong with it.

    Raises:
        TapertuneError: a label is none of the task's.
    """
    for number, row in table.read():
        found: Example | BadField
        try:
            found = row if isinstance(row, BadField) else kind.check(task, row, labelled=labelled)
        except UnknownLabel as error:
            raise TapertuneError(f"{table.where(number)}: {error}") from error
        except BadField as error:
            found = error
        yield number, found


def check_columns(kind: Kind, task: Task, table: Table, *, labelled: bool = True) -> None:
    """Raises TapertuneError unless the table has the columns that the task reads."""
    columns = table.first()
    for column in kind.columns(task, labelled=labelled):
        if column not in columns:
            guess = nearest(column, columns) if len(columns) <= _GUESSED else None
            hint = f"did you mean {guess!r}? " if guess else ""
            listed = ", ".join(name if name.isprintable() else repr(name) for name in islice(columns, _LISTED))
            more = f" and {len(columns) - _LISTED} more" if len(columns) > _LISTED else ""
            raise TapertuneError(f"{table.name} has no column {column!r}: {hint}Columns: {listed}{more}")


def _skipped(table: Table, bad: list[tuple[int, str]], rows: int, skip: bool) -> str:
    """The note on rows left out.

    Raises:
        TapertuneError: they are too many.
    """
    numbers = ", ".join(str(number) for number, _ in bad[:_NAMED])
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    which = f"{len(bad)} of {rows} rows cannot be used ({table.unit} {numbers}{more})"
    first = f"{table.where(bad[0][0])}: {bad[0][1]}"
    if len(bad) > TOLERATED * rows and not skip:
        raise TapertuneError(f"{first}. {which}: --skip-bad-rows leaves them out")
    return f"{table.name}: {which} and were left out; the first: {bad[0][1]}"


def _tables(
    task: Task,
    data: str | None,
    train: str | None,
    validation: str | float | None,
    form: CsvFormat,
    *,
    stream: bool = False,
) -> tuple[Table, dict[str, Table]]:
    if validation is not None and not isinstance(validation, str):
        if data is not None and train is not None:
            raise TapertuneError("task.data and task.train exclude each other: name a folder or a file")
        whole = _training_file(task, data, train, form, stream=stream)
        _check_form(form, [whole.name])
        training, held = divide(whole, validation)
        return training, {task.evaluation[0]: held}
    if train is not None or validation is not None:
        if train is None or validation is None:
            raise TapertuneError(
                "task.train and task.validation go together: name both files, or give the share of the training rows to"
                " hold out (task.validation: 0.1)"
            )
        if data is not None:
            raise TapertuneError("task.data and task.train exclude each other: name a folder or two files")
        _check_form(form, [train, validation])
        return open_data(Path(train), form), {task.evaluation[0]: open_data(Path(validation), form)}
    if data is None:
        _check_form(form, [])
        tables = hub_tables(task, ("train", *task.evaluation), stream=stream)
        return tables.pop("train"), tables
    folder = _data_folder(task, data)
    evaluation = _evaluation_tables(task, folder, form)
    training = open_data(_required(folder, _stems(task, "train")), form)
    _check_form(form, [training.name, *(table.name for table in evaluation.values())])
    return training, evaluation


def _check_form(form: CsvFormat, names: list[str]) -> None:
    """Raises TapertuneError if it is said how CSV files are written and there are none."""
    changed = [one.name for one in fields(form) if getattr(form, one.name) != one.default]
    if changed and not any(name.endswith(CSV) for name in names):
        which = f", and {names[0]!r} is none" if names else ""
        raise TapertuneError(f"task.{changed[0]} is for CSV files{which}")


def _evaluation_tables(task: Task, folder: Path, form: CsvFormat) -> dict[str, Table]:
    found = [(name, file) for name in task.evaluation if (file := _file(folder, _stems(task, name)))]
    if not found:
        main = task.evaluation[0]
        found = [(main, _required(folder, (*_stems(task, main), *(s for s in ("validation", "heldout") if s != main))))]
    return {name: open_data(file, form) for name, file in found}


def _data_folder(task: Task, data: str) -> Path:
    return _sample_folder(task) if data == SAMPLE else _folder(task, Path(data))


def _sample_folder(task: Task) -> Path:
    root = Path(str(resources.files("tapertune.tasks") / "samples"))
    if not (root / task.name).is_dir():
        there = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir()))
        raise TapertuneError(f"task.data is 'sample', but no sample of {task.name!r} is shipped. Samples: {there}")
    return root / task.name


def _folder(task: Task, folder: Path) -> Path:
    if not folder.is_dir():
        raise TapertuneError(f"no such data folder: {str(folder)!r}")
    return folder / task.name if (folder / task.name).is_dir() else folder


def _stems(task: Task, split: str) -> tuple[str, ...]:
    return (split, *task.files.get(split, ()))


def _file(folder: Path, stems: tuple[str, ...]) -> Path | None:
    names = (stem + suffix for stem in stems for suffix in SUFFIXES)
    return next((path for name in names if (path := folder / name).is_file()), None)


def _required(folder: Path, stems: tuple[str, ...]) -> Path:
    if file := _file(folder, stems):
        return file
    there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise TapertuneError(
        f"no file {' or '.join(stems)} in {str(folder)!r} (ending in {', '.join(SUFFIXES)}). There: {there}"
    )


def _first(table: Table, limit: int | None) -> Table:
    if limit is None:
        return table
    return replace(table, read=lambda: islice(table.read(), limit))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a null character in it
        return False
