"""CSV files that nobody says the form of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks.csv_files import CsvFormat
from tapertune.tasks.data import check_files, load
from tapertune.tasks.own import text_classification
from tapertune.tasks.sniff import open_data

ROW = {"text": "zwölf, 1", "label": "ü"}


def opened(path: Path, content: bytes, **form: str) -> tuple[list[object], tuple[str, ...]]:
    path.write_bytes(content)
    table = open_data(path, CsvFormat(**form))
    return [row for _, row in table.read()], table.notes


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text;label\nzwölf, 1;ü\n", "';'"),
        ("a.csv", "text\tlabel\nzwölf, 1\tü\n", r"'\t'"),
        ("a.csv", "text|label\nzwölf, 1|ü\n", "'|'"),
        ("a.tsv", 'text,label\n"zwölf, 1",ü\n', "','"),
        ("a.tsv", "text;label\nzwölf, 1;ü\n", "';'"),
    ],
)
def test_a_delimiter_that_the_rows_agree_on(tmp_path: Path, name: str, content: str, said: str) -> None:
    rows, notes = opened(tmp_path / name, content.encode())
    assert rows == [ROW]
    assert notes == (f"{tmp_path / name}: columns are set apart by {said} (task.delimiter says another)",)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_two_bytes_a_character(tmp_path: Path, encoding: str) -> None:
    rows, notes = opened(tmp_path / "a.csv", 'text,label\n"zwölf, 1",ü\n'.encode(encoding))
    assert rows == [ROW]
    assert notes == (f"{tmp_path / 'a.csv'}: its encoding is {encoding}, as it seems (task.encoding says another)",)


@pytest.mark.parametrize(
    "content",
    [
        'text,label\n"zwölf, 1",ü\n',
        'text,label\n"a;b",1\n"c;d",2\n',
        "text\nno comma here; really\n",
        "text,label\na;b,1\nc\n",  # a row that is too short, and no other character fits
    ],
)
def test_what_is_as_usual_is_left_so(tmp_path: Path, content: str) -> None:
    assert opened(tmp_path / "a.csv", content.encode())[1] == ()


def test_what_could_be_either_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a;b|c\n1;2|3\n")
    with pytest.raises(TapertuneError, match=r"task.delimiter says which"):
        list(open_data(tmp_path / "a.csv", CsvFormat()).read())
    with pytest.raises(TapertuneError, match=r"not UTF-8 text: .*task.encoding"):
        opened(tmp_path / "a.csv", "text,label\nzwölf,ü\n".encode("latin-1"))


def test_what_is_said_counts(tmp_path: Path) -> None:
    with pytest.raises(TapertuneError, match="apart by commas; here it seems to be ';'"):
        opened(tmp_path / "a.csv", b"text;label\na;1\n", delimiter="comma")
    rows, notes = opened(tmp_path / "a.csv", "text,label\nzwölf,1\n".encode(), encoding="latin-1")
    assert rows == [{"text": "zwÃ¶lf", "label": "1"}]
    assert notes == (
        f"{tmp_path / 'a.csv'}: it is UTF-8 text, as it seems, and is read as latin-1, which task.encoding says",
    )
    assert opened(tmp_path / "a.csv", "text,label\nzwölf,1\n".encode(), encoding="utf8")[1] == ()
    assert opened(tmp_path / "a.csv", "text,label\nzwölf,1\n".encode("latin-1"), encoding="latin-1")[1] == ()


def test_a_run_is_told_of_both_files(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        lines = [f"{name} {i};{label}\n" for i, label in enumerate("abab")]
        (tmp_path / f"{name}.csv").write_text("text;label\n" + "".join(lines))
    data = load(text_classification(), data=str(tmp_path))
    assert [note.partition(": ")[2] for note in data.notes] == [
        "columns are set apart by ';' (task.delimiter says another)"
    ] * 2
    check_files(text_classification(), data=str(tmp_path))


def test_files_that_are_missing_are_all_named(tmp_path: Path) -> None:
    one, other = str(tmp_path / "a.csv"), str(tmp_path / "b.csv")
    with pytest.raises(TapertuneError, match=r"no such files: '.*a.csv', '.*b.csv'"):
        check_files(text_classification(), train=one, validation=other)
    Path(one).write_text("text,label\na,1\n")
    with pytest.raises(TapertuneError, match=r"no such file: '.*b.csv'"):
        check_files(text_classification(), train=one, validation=other)
    with pytest.raises(TapertuneError, match="task 'text_classification' needs files"):
        check_files(text_classification())
    with pytest.raises(TapertuneError, match="go together: name both files"):
        check_files(text_classification(), validation=one)
    with pytest.raises(TapertuneError, match="no such data folder"):
        check_files(text_classification(), data=str(tmp_path / "none"))
