"""Which task a file of a user's own looks like, from the names and values of its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean
from typing import Any

from ..errors import TapertuneError, nearest
from .files import Table

ROWS = 500  # that are looked at
_LABELS = ("label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "stars", "rating", "score")
_SECOND = ("text_pair", "sentence2", "text2", "question2", "hypothesis", "premise2")
_CLASSES = 50  # a column of more values than these holds none


@dataclass(frozen=True, kw_only=True)
class Guess:
    """
    Attributes:
        task: name of a task over own files.
        fields: its columns, by setting.
        columns: all columns of the file.
        reasons: by setting, why this column.
    """

    task: str
    fields: dict[str, str]
    columns: tuple[str, ...]
    reasons: dict[str, str] = field(default_factory=dict)


def guess_task(table: Table, text: str | None = None, label: str | None = None) -> Guess:
    """What the table's first rows look like.

    Args:
        table: with the rows.
        text, label: columns that the user has named.

    Raises:
        TapertuneError: no such column (the nearest is named), or none that could be a text or a label.
    """
    rows = [row for _, row in islice(table.rows(), ROWS)]
    if not rows:
        table.first()  # says why
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    for option, name in (("--text", text), ("--label", label)):
        if name is not None and name not in columns:
            hint = f"did you mean {guess!r}? " if (guess := nearest(name, columns)) else ""
            raise TapertuneError(f"{option}: {table.name} has no column {name!r}: {hint}Columns: {', '.join(columns)}")
    known = None if text or label else _by_names(columns, rows[0])
    return known or _labelled(table, rows, columns, text, label)


def _by_names(columns: Sequence[str], row: Mapping[str, Any]) -> Guess | None:
    """A layout that names alone tell."""
    layouts: dict[str, tuple[str, ...]] = {
        "chat": ("messages",),
        "prompt_completion": ("prompt", "completion"),
        "question_answering": ("question", "context", "answers"),
        "token_classification": ("tokens", "tags"),
    }
    for task, names in layouts.items():
        if set(names) <= set(columns) and not (task == "chat" and not isinstance(row.get("messages"), list)):
            return Guess(task=task, fields={name: name for name in names}, columns=tuple(columns))
    return None


def _labelled(
    table: Table, rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...], text: str | None, label: str | None
) -> Guess:
    values = {name: [row[name] for row in rows if row.get(name) not in (None, "")] for name in columns}
    reasons: dict[str, str] = {}
    if label is None:
        label, reasons["label"] = _label_column(table, values, text)
    texts = {
        n: fmean(map(len, v)) for n, v in values.items() if n != label and v and all(isinstance(x, str) for x in v)
    }
    if text is None:
        if not texts:
            raise TapertuneError(f"{table.name}: no column beside {label!r} holds texts: name it with --text")
        text = max(texts, key=lambda name: texts[name])
        reasons["text"] = f"the column of the longest texts, {texts[text]:.0f} characters on average"
    fields = {"text": text}
    pair = next((name for name in columns if name.lower() in _SECOND and name in texts and name != text), None)
    if pair is not None:
        fields["text_pair"] = pair
    fields["label"] = label
    distinct = len(set(map(str, values[label])))
    if _numbers(values[label]) and distinct > _CLASSES:
        reasons["label"] = f"numbers, {distinct} different ones in {len(rows)} rows"
        return Guess(task="regression", fields=fields, columns=columns, reasons=reasons)
    reasons.setdefault("label", f"{distinct} different values in {len(rows)} rows")
    return Guess(task="text_classification", fields=fields, columns=columns, reasons=reasons)


def _label_column(table: Table, values: Mapping[str, list[Any]], text: str | None) -> tuple[str, str]:
    """The column of the label, and why it is that."""
    for wanted in _LABELS:
        for name in values:
            if name.lower() == wanted and name != text and values[name]:
                return name, "by its name"
    counts = {n: len(set(map(str, v))) for n, v in values.items() if n != text and v and _plain(v)}
    likely = {name: count for name, count in counts.items() if 2 <= count <= min(_CLASSES, len(values[name]) / 2)}
    if not likely:
        raise TapertuneError(
            f"{table.name}: no column looks like a label (2 to {_CLASSES} different values): name it with --label."
            f" Columns: {', '.join(values)}"
        )
    name = min(likely, key=lambda column: likely[column])
    return name, f"{likely[name]} different values"


def _plain(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str | int | float | bool) for value in values)


def _numbers(values: Sequence[Any]) -> bool:
    try:
        return all(not isinstance(value, bool) and float(value) == float(value) for value in values)
    except (TypeError, ValueError):
        return False
