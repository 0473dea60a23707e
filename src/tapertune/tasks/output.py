"""Rows as they are written out, each value as its file had it."""

from __future__ import annotations

import base64
import csv
import datetime
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..files import whole_file
from .fields import Row

ENDINGS = (".jsonl", ".csv", ".tsv")
Write = Callable[[Row], None]


@contextmanager
def written_rows(out: Path, columns: Sequence[str]) -> Iterator[Write]:
    """Writes rows to a file that appears when all of them are written.

    Args:
        out: the file; its ending says whether it is JSON lines, or CSV with commas or tabs.
        columns: of all rows, in order; CSV has each of them in every row.

    Raises:
        TapertuneError: it cannot be written.
    """
    with whole_file(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield _json_rows(file) if out.name.endswith(".jsonl") else _csv_rows(file, columns, out.name)


def plain(value: Any) -> Any:
    """A value that JSON does not have as one that it has: dates and decimals are text, bytes are base64.

    >>> plain(datetime.date(2024, 5, 1)), plain(b"a")
    ('2024-05-01', 'YQ==')
    """
    if isinstance(value, datetime.date | datetime.time):  # datetime is a date
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.item() if hasattr(value, "item") else str(value)


def _json_rows(file: IO[str]) -> Write:
    def write(row: Row) -> None:
        file.write(json.dumps(row, ensure_ascii=False, default=plain) + "\n")

    return write


def _csv_rows(file: IO[str], columns: Sequence[str], name: str) -> Write:
    writer = csv.writer(file, delimiter="\t" if name.endswith(".tsv") else ",")
    writer.writerow(columns)

    def write(row: Row) -> None:
        writer.writerow([_cell(row.get(column)) for column in columns])

    return write


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    found = json.dumps(value, ensure_ascii=False, default=plain)
    return json.loads(found) if found.startswith('"') else found  # text stands for itself
