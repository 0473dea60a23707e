"""What became of a table's rows on their way to the model, and how that is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import TapertuneError
from .base import Task
from .kinds import Encoded, get_kind


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Rows of one split."""

    rows: int = field(metadata={"help": "rows read"})
    bad: int = field(default=0, metadata={"help": "rows that cannot be used: left out"})
    empty: int = field(default=0, metadata={"help": "rows without any text: used as they are"})
    left_out: int = field(
        default=0, metadata={"help": "answers that do not fit: not trained on; evaluated, but not part of the loss"}
    )
    cut: int = field(default=0, metadata={"help": "rows whose text was cut"})
    answers_cut: int = field(default=0, metadata={"help": "rows whose answer was cut, where the task allows it"})


def counts_of(encoded: Encoded, bad: int) -> Counts:
    """The counts of a split that is in memory, ``bad`` of whose rows could not be encoded."""
    return Counts(
        rows=len(encoded.examples) + bad,
        bad=bad,
        empty=encoded.empty,
        left_out=encoded.left_out,
        cut=encoded.truncated,
        answers_cut=encoded.answers_cut,
    )


def notes(task: Task, name: str, counts: Counts, *, train: bool) -> list[str]:
    """What to tell of rows that were cut or whose answers do not fit; of bad rows, whoever found them tells more."""
    usable = counts.rows - counts.bad
    found: list[str] = []
    if counts.empty:
        found.append(f"{name}: {counts.empty} of {usable} rows have no text")
    if counts.left_out:
        what = "were left out of training" if train else "count for the score but not for the loss"
        found.append(f"{name}: {counts.left_out} of {usable} rows {what}: {get_kind(task.kind).unfit(task)}")
    if counts.cut:
        found.append(
            f"{name}: {counts.cut} of {usable} rows were longer than task.max_length ({task.max_length} tokens) and"
            " were cut"
        )
    if counts.answers_cut:
        found.append(f"{name}: {counts.answers_cut} of {usable} answers were cut: {get_kind(task.kind).unfit(task)}")
    return found


def check_trains(task: Task, name: str, counts: Counts) -> None:
    """Raises TapertuneError if there is nothing to train on in the rows of a split."""
    usable = counts.rows - counts.bad
    if counts.left_out == usable:
        raise TapertuneError(f"{name}: none of {usable} rows can be trained on: {get_kind(task.kind).unfit(task)}")
    if counts.empty == usable:
        raise TapertuneError(f"{name}: none of {usable} rows has text in {' or '.join(map(repr, task.text))}")
