from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks.fields import BadField
from tapertune.tasks.files import open_table

ROWS = [{"text": 'a\u2028b, "c"', "label": 1}, {"text": "zwölf", "label": 0}]
LINES = '{"text": "a\u2028b, \\"c\\"", "label": 1}\n\n{"text": "zwölf", "label": 0}\n'


def test_json_lines_keep_their_line_numbers(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_text(LINES, encoding="utf-8")
    packed.write_bytes(gzip.compress(LINES.encode()))
    for path in (plain, packed):
        assert list(open_table(path).rows()) == [(f"{path}, line 1", ROWS[0]), (f"{path}, line 3", ROWS[1])]


def test_csv_rows_are_known_by_the_line_they_start_at(tmp_path: Path) -> None:
    content = 'text,label\n"two\nlines",1\nlast,0\n'.encode("utf-8-sig")
    (tmp_path / "a.csv").write_bytes(content)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(content, mtime=0))
    for name in ("a.csv", "a.csv.gz"):
        rows = [(2, {"text": "two\nlines", "label": "1"}), (4, {"text": "last", "label": "0"})]
        assert list(open_table(tmp_path / name).read()) == rows


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    table = open_table(path)
    assert list(table.rows()) == [(f"{path}, row 1", ROWS[0]), (f"{path}, row 2", ROWS[1])]
    assert table.first() == ROWS[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"x", r"cannot read '.*a.txt': its name must end in .jsonl, .jsonl.gz, .json, .json.gz, .csv, "),
        ("a.jsonl", None, "no such file: '.*a.jsonl'"),
        ("a.jsonl", b"", "a.jsonl is empty: it holds no rows"),
        ("a.csv", b"text,label\n", "a.csv is empty"),
        ("a.jsonl", b'{"a": \n', r"a.jsonl, line 1: not JSON: Expecting value \(column 7\)"),
        ("a.jsonl.gz", b"no gzip", "cannot read '.*a.jsonl.gz': Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n', mtime=0)[:-9], "cannot read '.*a.jsonl.gz'"),
        ("a.csv", b"a,b\n1,\xff\n", "a.csv, line 2: not UTF-8 text: save the file in that encoding"),
        ("a.csv", b"a;b\n1;2\n", "a.csv, line 1: columns must be set apart by commas; here it seems to be ';'"),
        ("a.csv", b"a,b,a\n1,2,3\n", "a.csv, line 1: two columns are called 'a'"),
        (
            "a.jsonl",
            b'[{"a": 1}]',
            "it must be a JSON object, .*; a list of rows is read from a file that ends in .json",
        ),
        ("a.csv", b'a,b\n1,"2', "a.csv, line 2: not CSV: unexpected end of data"),
        ("a.parquet", b"nothing", "cannot read '.*a.parquet'"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TapertuneError, match=message):
        table = open_table(path)
        table.first()
        list(table.read())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n{"a": 2}', r"not JSON: Expecting value (column 7)"),
        ("a.jsonl", b'{"a": 1}\n7\n{"a": 2}', "it must be a JSON object, with a field a column"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n{"a": 2}', "not UTF-8 text"),
        ("a.csv", b"a\n1\n1,2\n2\n", "more fields than the header has columns"),
    ],
)
def test_lines_that_are_no_rows_leave_the_others_readable(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    _, (number, bad), (_, last) = open_table(path).read()
    assert isinstance(bad, BadField) and str(bad) == message
    assert number == (3 if name == "a.csv" else 2)
    assert last in ({"a": 2}, {"a": "2"})
