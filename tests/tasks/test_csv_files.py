"""CSV as people have it: every field is the text that is written there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks.csv_files import CsvFormat
from tapertune.tasks.files import open_table
from tapertune.tasks.own import text_classification


def rows(path: Path, content: bytes, **form: Any) -> list[Any]:
    path.write_bytes(content)
    return [row for _, row in open_table(path, CsvFormat(**form)).read()]


def test_a_field_is_its_text(tmp_path: Path) -> None:
    fields = ["02134", "1.0", "1", "1e5", "NaN", "NA", "null", "None", "", " yes", "True", "9" * 30, "2024-05-01"]
    content = "label,id\n" + "".join(f"{field},{number}\n" for number, field in enumerate(fields))
    found = rows(tmp_path / "a.csv", content.encode())
    assert [row["label"] for row in found] == fields


@pytest.mark.parametrize("size", [131_072, 131_073, 3_000_000])
def test_long_fields(tmp_path: Path, size: int) -> None:
    text = "good\ntea " * (size // 9) + "a" * (size % 9)
    [row] = rows(tmp_path / "a.csv", f'text,label\n"{text}",1\n'.encode())
    assert row == {"text": text, "label": "1"}


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("a.csv", "text;label\nzwölf, 1;ü\n".encode(), {"delimiter": ";"}),
        ("a.csv", "text;label\nzwölf, 1;ü\n".encode("latin-1"), {"delimiter": "semicolon", "encoding": "latin-1"}),
        ("a.csv", "text|label\nzwölf, 1|ü\n".encode(), {"delimiter": "pipe"}),
        ("a.tsv", "text\tlabel\nzwölf, 1\tü\n".encode(), {}),
        ("a.csv", "text\tlabel\nzwölf, 1\tü\n".encode(), {"delimiter": "\\t"}),
        ("a.csv", 'text,label\n"zwölf, 1",ü\n'.encode("utf-8-sig"), {"encoding": "latin-1"}),  # its mark tells more
        ("a.csv", 'text,label\n"zwölf, 1",ü\n'.encode("utf-16"), {}),
        ("a.tsv", "text\tlabel\r\nzwölf, 1\tü\r\n".encode("utf-16"), {}),
        ("a.csv", 'text,label\n"zwölf, 1",ü\n'.encode("utf-32"), {}),
        ("a.csv", 'text,label\n"zwölf, 1",ü\n'.encode("utf-16-le"), {"encoding": "utf-16-le"}),
        ("a.csv", 'text,label\r\n"zwölf, 1",ü\r\n'.encode(), {}),
        ("a.csv", 'text,label\r"zwölf, 1",ü\r'.encode(), {}),
        ("a.csv", 'text,label\n\n"zwölf, 1",ü'.encode(), {}),
    ],
)
def test_delimiters_encodings_and_line_ends(tmp_path: Path, name: str, content: bytes, form: dict[str, Any]) -> None:
    assert rows(tmp_path / name, content, **form) == [{"text": "zwölf, 1", "label": "ü"}]


def test_quotes_may_be_text(tmp_path: Path) -> None:
    content = b'text\tlabel\n"Tea\tyes\n"Rain"s\tno\n'
    found = rows(tmp_path / "a.tsv", content, quotes=False)
    assert found == [{"text": '"Tea', "label": "yes"}, {"text": '"Rain"s', "label": "no"}]


def test_line_ends_inside_quotes_are_kept(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.csv", b'text,label\r\n"a\r\nb\nc\rd",1\r\n') == [{"text": "a\r\nb\nc\rd", "label": "1"}]


@pytest.mark.parametrize(
    ("content", "form", "message"),
    [
        ("a;b\n1;2\n", {}, r"apart by commas; here it seems to be ';': .*\(--task.delimiter semicolon\)"),
        ("a,b\n1,2\n", {"delimiter": ";"}, r"apart by semicolons; here it seems to be ',': .*--task.delimiter comma"),
        ("a,b\n" + "1,2\n" * 5000 + "é,1\n", {"encoding": "ascii"}, "line 5002: not ascii text: save the file in"),
        ("a,b\n", {"encoding": "utf-16"}, "not utf-16 text"),
        ('a,b\n"1"2,3\n', {}, "line 2: not CSV"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: str, form: dict[str, Any], message: str) -> None:
    with pytest.raises(TapertuneError, match=message):
        rows(tmp_path / "a.csv", content.encode(), **form)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"delimiter": ""}, "task.delimiter is ''; it must be one character, or comma, semicolon, tab"),
        ({"delimiter": "::"}, "task.delimiter is '::'"),
        ({"delimiter": '"'}, "task.delimiter is"),
        ({"encoding": "utf-9"}, "task.encoding is 'utf-9'; it must be an encoding that Python knows"),
        ({"encoding": "base64"}, "task.encoding is 'base64'"),
    ],
)
def test_forms_that_there_are_not(form: dict[str, Any], message: str) -> None:
    with pytest.raises(TapertuneError, match=message):
        CsvFormat(**form)


def test_a_form_needs_a_csv_file(tmp_path: Path) -> None:
    from tapertune.tasks.data import load

    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n')
    with pytest.raises(TapertuneError, match=r"task.delimiter is for CSV files, and '.*a.jsonl' is none"):
        load(text_classification(), train=str(path), validation=str(path), form=CsvFormat(delimiter=";"))


def test_very_many_columns_are_quick(tmp_path: Path) -> None:
    from tapertune.tasks.data import check

    names = [f"column{number}" for number in range(100_000)]
    (tmp_path / "a.csv").write_text(",".join(names) + "\n" + ",".join("1" for _ in names) + "\n")
    begun = time.monotonic()
    with pytest.raises(TapertuneError, match=r"has no column 'text': Columns: column0, .* and 99980 more"):
        check(text_classification(), open_table(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_text(",".join([*names, "column7"]) + "\n")
    with pytest.raises(TapertuneError, match="two columns are called 'column7'"):
        open_table(tmp_path / "a.csv").first()
    assert time.monotonic() - begun < 5
