"""Tables: files that are read row by row, in memory for one row at a time, keeping the line of every row so that an
error can point at it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import TapertuneError
from .csv_files import CsvFormat, csv_rows
from .fields import BadField, Numbered, Row
from .json_files import json_lines, json_rows
from .parquet_files import parquet_rows
from .raw import check_file

Reader = Callable[[Path], Numbered]
CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", *CSV, ".parquet")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that can be read again and again.

    Attributes:
        name: of the file, or of the split on the hub.
        unit: what rows are numbered by: line or row.
        read: the rows with their numbers; a line that is no row is an error in its place.
        notes: what to tell of how it is read.
    """

    name: str
    unit: str
    read: Callable[[], Numbered]
    notes: tuple[str, ...] = ()

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


def open_table(path: Path, form: CsvFormat = CsvFormat()) -> Table:  # noqa: B008 (it is frozen)
    """The table of a JSON lines, JSON, CSV (these also gzip) or Parquet file. Its rows are read later.

    Args:
        path: of the file.
        form: how it is written, if it is CSV.

    Raises:
        TapertuneError: the file is missing or of another kind; reading it raises where a file is unreadable.
    """
    suffix = suffix_of(path)
    if suffix is None:
        raise TapertuneError(f"cannot read {str(path)!r}: its name must end in {', '.join(SUFFIXES)}")
    check_file(path)
    kind = suffix.removesuffix(".gz")
    readers: dict[str, Reader] = {".parquet": parquet_rows, ".json": json_rows, ".jsonl": json_lines}
    read = readers.get(kind) or partial(csv_rows, form=form)
    unit = "row" if kind in (".parquet", ".json") else "line"
    return Table(name=str(path), unit=unit, read=lambda: _guarded(path, read))


def suffix_of(path: Path) -> str | None:
    """The ending by which a file is read, or None."""
    return next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)


def _guarded(path: Path, read: Reader) -> Numbered:
    try:
        yield from read(path)
    except (OSError, EOFError, zlib.error) as error:
        raise TapertuneError(f"cannot read {str(path)!r}: {error}") from error
