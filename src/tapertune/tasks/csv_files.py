"""Rows of CSV files. A field is its text, as it is written: nothing is taken for a number, a date or no value."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import TapertuneError, bad_value
from . import raw
from .fields import BadField, Numbered

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
LIKELY = ("comma", "semicolon", "tab", "pipe")


@dataclass(frozen=True, kw_only=True)
class CsvFormat:
    r"""How CSV files are written.

    >>> CsvFormat(delimiter="tab").delimiter_of("a.csv"), CsvFormat().delimiter_of("a.tsv")
    ('\t', '\t')
    """

    delimiter: str | None = field(
        default=None,
        metadata={"help": "between columns: a character, or comma, semicolon, tab, pipe, space; none: by the ending"},
    )
    encoding: str | None = field(default=None, metadata={"help": "of a file without a byte order mark; none: UTF-8"})
    quotes: bool = field(default=True, metadata={"help": "fields may be quoted; else a quote is text"})

    def __post_init__(self) -> None:
        mark = self.delimiter
        if mark is not None and mark not in (*DELIMITERS, "\\t") and (len(mark) != 1 or mark in '"\r\n\0'):
            raise bad_value("task.delimiter", mark, f"one character, or {', '.join(DELIMITERS)}")
        if self.encoding is not None and not _is_text(self.encoding):
            raise bad_value("task.encoding", self.encoding, "an encoding that Python knows, such as latin-1 or utf-16")

    def delimiter_of(self, name: str) -> str:
        """What stands between the columns of a file of that name."""
        if self.delimiter is None:
            return "\t" if name.endswith((".tsv", ".tsv.gz")) else ","
        return "\t" if self.delimiter == "\\t" else DELIMITERS.get(self.delimiter, self.delimiter)


def csv_rows(path: Path, form: CsvFormat) -> Numbered:
    """The rows of a file whose first line names the columns.

    Raises:
        TapertuneError: it is not CSV, or two columns have one name.
    """
    # One limit for the process, by default 131,072 characters.
    csv.field_size_limit(max(csv.field_size_limit(), raw.LONGEST_LINE))
    delimiter = form.delimiter_of(path.name)
    quoting: Any = csv.QUOTE_MINIMAL if form.quotes else csv.QUOTE_NONE
    lines = raw.text_lines(path, form.encoding)
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    number = 1
    try:
        names = next(reader, [])
        _check_header(path, names, delimiter)
        # A quoted field may span lines: a row is known by the line it starts at.
        while True:
            number = reader.line_num + 1
            row = next(reader)
            if not row:
                continue  # an empty line
            missing = [None] * (len(names) - len(row))
            more = len(row) > len(names)
            yield (
                number,
                BadField("more fields than the header has columns")
                if more
                else dict(zip(names, (*row, *missing), strict=True)),
            )
    except StopIteration:
        return
    except csv.Error as error:
        raise TapertuneError(f"{path}, line {number}: not CSV: {error}") from error
    finally:
        lines.close()


def _check_header(path: Path, names: Sequence[str], delimiter: str) -> None:
    other = next((n for n in LIKELY if len(names) == 1 and DELIMITERS[n] in names[0]), None)
    if other:
        known = {mark: f"{name}s" for name, mark in DELIMITERS.items()}
        raise TapertuneError(
            f"{path}, line 1: columns must be set apart by {known.get(delimiter, repr(delimiter))}; here it seems to be"
            f" {DELIMITERS[other]!r}: task.delimiter says which (--task.delimiter {other})"
        )
    [(name, count)] = Counter(names).most_common(1) or [("", 0)]
    if count > 1:
        raise TapertuneError(f"{path}, line 1: two columns are called {name!r}")


def _is_text(encoding: str) -> bool:
    try:
        return "a,1\n".encode(encoding).decode(encoding) == "a,1\n"
    except (LookupError, UnicodeError, ValueError):
        return False
