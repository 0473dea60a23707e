"""Reads one field of a row, and says what is wrong with it; the reader of the file adds the place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]
Numbered = Iterator[tuple[int, "Row | BadField"]]  # rows by line or number
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")


class BadField(ValueError):
    """A row cannot be used. The message names the field, its value and what is allowed."""


class UnknownLabel(BadField):
    """A label that is well formed, but none of the task's: not a slip of one row, so it always stops a run."""


def value(row: dict[str, Any], column: str) -> Any:
    """The field's value, which may be null.

    >>> value({"a": 1}, "a")
    1
    """
    if column not in row:
        raise BadField(f"field {column!r} is missing")
    return row[column]


def text(row: dict[str, Any], column: str) -> str:
    """The field's text; null and numbers are refused.

    >>> text({"a": 7}, "a")
    Traceback (most recent call last):
    tapertune.tasks.fields.BadField: field 'a' is 7; it must be text
    """
    found = value(row, column)
    if not isinstance(found, str):
        raise bad(column, found, "text")
    return found


def whole(found: Any) -> int | None:
    """A whole number, or a text that is one and would be written in the same way, or None.

    >>> whole("2"), whole(2.0), whole(True), whole("two"), whole("02")
    (2, 2, None, None, None)
    """
    if isinstance(found, bool):
        return None
    if isinstance(found, int):
        return found
    if isinstance(found, float) and found.is_integer():
        return int(found)
    if isinstance(found, str) and _WHOLE.fullmatch(found.strip()):
        return int(found)
    return None


def bad(column: str, found: Any, allowed: str, kind: type[BadField] = BadField) -> BadField:
    """The error for a field's value."""
    return kind(f"field {column!r} is {short(found)}; it must be {allowed}")


def short(found: Any, most: int = 60) -> str:
    """A value as it is shown in a message, cut to so many characters.

    >>> short("a" * 100, 10)
    "'aaaaaa..."
    """
    # The first characters of a text are enough: there may be millions.
    shown = repr(found[:most] if isinstance(found, str) else found)
    return shown if len(shown) <= most else shown[: most - 3] + "..."
