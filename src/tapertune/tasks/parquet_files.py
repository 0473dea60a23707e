"""Rows of Parquet files, as Python's own values."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import TapertuneError
from .fields import BadField, Numbered

_BATCH = 256  # rows made into Python's values at once
_LARGE, _RATIO = 2**26, 200  # pages that unpack to more than these are no data


def parquet_rows(path: Path) -> Numbered:
    """The rows of a file; one that has no form in Python (text that is not UTF-8, a date beyond the year 9999) is an
    error in its place.

    Raises:
        TapertuneError: it is no whole Parquet file, or two columns have one name.
    """
    import pyarrow.lib
    import pyarrow.parquet

    number = 1
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check(path, file)
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in _rows(batch):
                    yield number, row
                    number += 1
    # A damaged file raises whatever its first wrong byte leads to.
    except (pyarrow.lib.ArrowException, OSError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        if isinstance(error, TapertuneError):
            raise
        raise TapertuneError(f"cannot read {str(path)!r}: {error}") from error


def _check(path: Path, file: Any) -> None:
    [(name, count)] = Counter(file.schema_arrow.names).most_common(1) or [("", 0)]
    if count > 1:
        raise TapertuneError(f"{path}: two columns are called {name!r}")
    groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
    size = sum(group.total_byte_size for group in groups)
    if size > _LARGE and size > _RATIO * path.stat().st_size:
        raise TapertuneError(f"cannot read {str(path)!r}: it unpacks to more than {_RATIO} times its size")


def _rows(batch: Any) -> list[dict[str, Any] | BadField]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError):  # one value of one row, perhaps
        return [_row(batch.slice(number, 1)) for number in range(batch.num_rows)]


def _row(single: Any) -> dict[str, Any] | BadField:
    row: dict[str, Any] = {}
    for name, column in zip(single.schema.names, single.columns, strict=True):
        try:
            [row[name]] = column.to_pylist()
        except UnicodeDecodeError:
            return BadField(f"field {name!r} is not UTF-8 text")
        except (ValueError, OverflowError) as error:
            return BadField(f"field {name!r} cannot be read: {error}")
    return row
