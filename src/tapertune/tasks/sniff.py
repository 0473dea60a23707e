"""How a CSV file is written, where nobody says so and only one way is possible."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import TapertuneError
from . import raw
from .csv_files import DELIMITERS, LIKELY, CsvFormat
from .files import CSV, Table, open_table

_ROWS = 20  # that have to agree
_HEAD = 2**16  # bytes
_NULLS = 0.3  # share of null bytes of one parity, above which text has two bytes a character


def open_data(path: Path, form: CsvFormat) -> Table:
    """The table of a file; its notes tell how it is read, where nobody says so.

    A CSV file whose rows are columns by one other character alone, or whose characters have two bytes, is read so
    unless the form says how. An encoding that is given, and is not the file's by all signs, is told of.

    Raises:
        TapertuneError: as ``open_table``.
    """
    table = open_table(path, form)
    if not path.name.endswith(CSV):
        return table
    notes: list[str] = []
    head = _head(path)
    if form.encoding is None:
        found = wide_encoding(head)
        if found is not None:
            form = replace(form, encoding=found)
            notes.append(f"{path}: its encoding is {found}, as it seems (task.encoding says another)")
    elif is_utf8(head) and not _same_text(head, form.encoding):
        notes.append(f"{path}: it is UTF-8 text, as it seems, and is read as {form.encoding}, which task.encoding says")
    if form.delimiter is None:
        name = other_delimiter(path, form)
        if name is not None:
            form = replace(form, delimiter=name)
            notes.append(f"{path}: columns are set apart by {DELIMITERS[name]!r} (task.delimiter says another)")
    return replace(open_table(path, form), notes=tuple(notes)) if notes else table


def other_delimiter(path: Path, form: CsvFormat) -> str | None:
    """The name of the delimiter that the first rows agree on, where they do not on the usual one of the file's ending,
    and on one other alone; else None."""
    usual = form.delimiter_of(path.name)
    lines = raw.text_lines(path, form.encoding)
    try:
        first = list(islice(lines, 4 * _ROWS))
    except TapertuneError:  # reading the rows says it
        return None
    finally:
        lines.close()
    if _agree(first, usual, form):
        return None
    fitting = [name for name in LIKELY if DELIMITERS[name] != usual and _agree(first, DELIMITERS[name], form)]
    return fitting[0] if len(fitting) == 1 else None


def wide_encoding(head: bytes) -> str | None:
    """UTF-16 of either order, for the start of a file that has it and no byte order mark; else None."""
    if len(head) < 4 or raw.marked_encoding(head) is not None:
        return None
    even, odd = head[::2], head[1::2]
    high, low = even.count(0) / len(even), odd.count(0) / len(odd)
    if low > _NULLS and high < _NULLS / 10:
        return "utf-16-le"
    return "utf-16-be" if high > _NULLS and low < _NULLS / 10 else None


def is_utf8(head: bytes) -> bool:
    """Whether the start of a file is UTF-8 with characters beyond ASCII, as hardly any other text is."""
    if head.isascii() or raw.marked_encoding(head) is not None:
        return False
    return _decodes(head, "utf-8")


def _same_text(head: bytes, encoding: str) -> bool:
    try:
        return head.decode(encoding, errors="ignore") == head.decode("utf-8", errors="ignore")
    except (LookupError, UnicodeError):
        return False


def _decodes(head: bytes, encoding: str) -> bool:
    """Whether bytes are text in an encoding, but for a character that is cut at their end."""
    try:
        head.decode(encoding)
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 4 and len(head) == _HEAD
    return True


def _head(path: Path) -> bytes:
    with raw.open_bytes(path) as file:
        return file.read(_HEAD)


def _agree(lines: Sequence[str], delimiter: str, form: CsvFormat) -> bool:
    """Whether the first rows have as many fields as the header, which has two or more."""
    csv.field_size_limit(max(csv.field_size_limit(), raw.LONGEST_LINE))
    quoting: Any = csv.QUOTE_MINIMAL if form.quotes else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        counts = [len(row) for row in islice(reader, _ROWS + 1) if row]
    except csv.Error:
        return False
    return bool(counts) and counts[0] > 1 and set(counts) == {counts[0]}
