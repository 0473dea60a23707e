"""Parquet's own kinds of values, and files that lie about them."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks import text_classification
from tapertune.tasks.data import check, load
from tapertune.tasks.fields import BadField
from tapertune.tasks.files import open_table

TEXTS = ["a", "b", "c", "d"]


def write(path: Path, **columns: object) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("labels", "names", "values"),
    [
        (pyarrow.array(["x", "y", "x", "y"]).dictionary_encode(), ("x", "y"), ("x", "y")),
        (pyarrow.array([True, False, True, False]), ("false", "true"), (False, True)),
        (pyarrow.array([10, 9, 10, 9], pyarrow.int8()), ("9", "10"), (9, 10)),
        (pyarrow.array([2.0, 1.0, 2.0, 1.0]), ("1.0", "2.0"), (1.0, 2.0)),
        (pyarrow.array([2**60, 2**60 + 1] * 2), (str(2**60), str(2**60 + 1)), (2**60, 2**60 + 1)),
        (pyarrow.array([Decimal("1.10"), Decimal("1.2")] * 2), ("1.10", "1.20"), ("1.10", "1.20")),
        (
            pyarrow.array([datetime.date(2024, 5, 2), datetime.date(2024, 5, 1)] * 2),
            ("2024-05-01", "2024-05-02"),
            ("2024-05-01", "2024-05-02"),
        ),
        (pyarrow.array(["01", "1", "01", "1"], pyarrow.large_string()), ("1", "01"), ("1", "01")),
    ],
)
def test_labels_of_every_kind(
    tmp_path: Path, labels: pyarrow.Array, names: tuple[str, ...], values: tuple[object, ...]
) -> None:
    path = str(write(tmp_path / "a.parquet", text=TEXTS, label=labels))
    data = load(text_classification(), train=path, validation=path)
    assert (data.task.labels, data.task.values) == (names, values)
    assert [type(value) for value in data.task.values] == [type(value) for value in values]


def test_bytes_that_are_no_text_are_one_row(tmp_path: Path) -> None:
    raw = pyarrow.array([b"a", b"\xff\xfe", b"c", b"d"])
    text = pyarrow.Array.from_buffers(pyarrow.string(), 4, raw.buffers())
    path = write(tmp_path / "a.parquet", text=text, label=["x", "y"] * 2)
    found = [row for _, row in open_table(path).read()]
    assert isinstance(found[1], BadField) and str(found[1]) == "field 'text' is not UTF-8 text"
    assert [row["text"] for row in found if not isinstance(row, BadField)] == ["a", "c", "d"]
    task = text_classification(labels=("x", "y"))
    with pytest.raises(TapertuneError, match=r"a.parquet, row 2: field 'text' is not UTF-8 text. 1 of 4 rows"):
        check(task, open_table(path))
    assert check(task, open_table(path), skip_bad_rows=True).bad == 1


def test_dates_that_python_has_not(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", text=["a"], when=pyarrow.array([2**62], pyarrow.timestamp("ms")))
    [(_, row)] = open_table(path).read()
    assert isinstance(row, BadField) and str(row).startswith("field 'when' cannot be read: ")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(TEXTS)] * 2, names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(TapertuneError, match="two columns are called 'text'"):
        open_table(tmp_path / "a.parquet").first()


def test_pages_that_unpack_without_end(tmp_path: Path) -> None:
    table = pyarrow.table({"text": ["a" * 2**20] * 100})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(TapertuneError, match="it unpacks to more than 200 times its size"):
        open_table(tmp_path / "a.parquet").first()
