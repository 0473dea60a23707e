"""Reads tables row by row, in memory for one row at a time, keeping the line of every row so that an error can point
at it."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import TapertuneError
from .fields import BadField
from .nested import flattened

Row = dict[str, Any]
Numbered = Iterator[tuple[int, "Row | BadField"]]
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that can be read again and again.

    Attributes:
        name: of the file, or of the split on the hub.
        unit: what rows are numbered by: line or row.
        read: the rows with their numbers; a line that is no row is an error in its place.
    """

    name: str
    unit: str
    read: Callable[[], Numbered]

    def where(self, number: int) -> str:
        """The place of a row, such as ``train.jsonl, line 3``."""
        return f"{self.name}, {self.unit} {number}"

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Rows with their places; lines that are none are left out."""
        for number, row in self.read():
            if not isinstance(row, BadField):
                yield self.where(number), row

    def first(self) -> Row:
        """The first row.

        Raises:
            TapertuneError: there is none.
        """
        bad: str | None = None
        for number, row in self.read():
            if not isinstance(row, BadField):
                return row
            bad = bad or f"{self.where(number)}: {row}"
        raise TapertuneError(bad or f"{self.name} is empty: it holds no rows")


def open_table(path: Path) -> Table:
    """The table of a JSON lines, JSON, CSV (these also gzip) or Parquet file. Its rows are read later.

    Raises:
        TapertuneError: the file is missing or of another kind; reading it raises where a file is unreadable.
    """
    suffix = suffix_of(path)
    if suffix is None:
        raise TapertuneError(f"cannot read {str(path)!r}: its name must end in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise TapertuneError(f"no such file: {str(path)!r}")
    kind = suffix.removesuffix(".gz")
    read = {".csv": _csv, ".parquet": _parquet, ".json": _json}.get(kind, _json_lines)
    unit = "row" if kind in (".parquet", ".json") else "line"
    return Table(name=str(path), unit=unit, read=lambda: _guarded(path, read))


def suffix_of(path: Path) -> str | None:
    """The ending by which a file is read, or None."""
    return next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)


def _guarded(path: Path, read: Callable[[Path], Numbered]) -> Numbered:
    try:
        yield from read(path)
    except (OSError, EOFError, zlib.error) as error:
        raise TapertuneError(f"cannot read {str(path)!r}: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    # Bytes, because only "\n" ends a line: text would also break at "\r" and U+2028, which JSON allows in strings.
    opened: Any = gzip.open(path) if path.name.endswith(".gz") else path.open("rb")  # noqa: SIM115
    with opened as file:
        for number, line in enumerate(file, 1):
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _json_lines(path: Path) -> Numbered:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8").rstrip("\r\n"))
        except UnicodeDecodeError:
            yield number, BadField("not UTF-8 text")
            continue
        except json.JSONDecodeError as error:
            yield number, BadField(f"not JSON: {error.msg} (column {error.colno})")
            continue
        hint = "; a list of rows is read from a file that ends in .json" if isinstance(row, list) else ""
        wrong = f"it must be a JSON object, with a field a column{hint}"
        yield number, row if isinstance(row, dict) else BadField(wrong)


def _json(path: Path) -> Numbered:
    """A list of rows, alone or under ``data``; SQuAD's articles; or JSON lines. The file is read whole."""
    text = b"".join(line for _, line in _lines(path))
    try:
        found = json.loads(text)
    except UnicodeDecodeError as error:
        raise TapertuneError(f"{path}: not UTF-8 text") from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # a second value behind the first
            yield from _json_lines(path)
            return
        raise TapertuneError(f"{path}, line {error.lineno}: not JSON: {error.msg} (column {error.colno})") from error
    rows = found.get("data") if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise TapertuneError(f"{path}: it must hold a list of rows, or an object with one under 'data'")
    yield from enumerate(chain.from_iterable(map(flattened, rows)), 1)


def _csv(path: Path) -> Numbered:
    reader = csv.DictReader(_decoded(path), strict=True)
    number = 1
    try:
        _check_header(path, list(reader.fieldnames or []))  # read here, so that line_num counts from behind it
        # A quoted field may span lines: a row is known by the line it starts at.
        while True:
            number = reader.line_num + 1
            row = next(reader)
            more = None in row
            yield number, BadField("more fields than the header has columns") if more else dict(row)
    except StopIteration:
        return
    except csv.Error as error:
        raise TapertuneError(f"{path}, line {number}: not CSV: {error}") from error


def _check_header(path: Path, names: list[str]) -> None:
    other = next((mark for mark in (";", "	", "|") if len(names) == 1 and mark in names[0]), None)
    if other:
        raise TapertuneError(f"{path}, line 1: columns must be set apart by commas; here it seems to be {other!r}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise TapertuneError(f"{path}, line 1: two columns are called {twice[0]!r}")


def _decoded(path: Path) -> Iterator[str]:
    for number, line in _lines(path):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:  # rows may span lines, so that none can be left out
            raise TapertuneError(f"{path}, line {number}: not UTF-8 text: save the file in that encoding") from error


def _parquet(path: Path) -> Numbered:
    import pyarrow.lib
    import pyarrow.parquet

    number = 1
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield number, row
                    number += 1
    except pyarrow.lib.ArrowException as error:
        raise TapertuneError(f"cannot read {str(path)!r}: {error}") from error
