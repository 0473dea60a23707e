"""What is opened at all, and how far it is read."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks import raw, text_classification
from tapertune.tasks.data import load
from tapertune.tasks.files import open_table


def test_pipes_folders_and_odd_names_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "b.csv").mkdir()
    for name, message in (
        ("a.jsonl", "no regular file"),
        ("b.csv", "it is a folder"),
        ("c" * 300 + ".csv", "cannot read|no such file"),
        ("d\0.csv", "cannot read|no such file"),
    ):
        with pytest.raises(TapertuneError, match=message):
            open_table(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz", "a.tsv.gz"])
@pytest.mark.parametrize("line", [b"a" * 2**20, b'{"text": "a"}\n' * 2**15], ids=["one line", "many rows"])
def test_a_packed_file_without_end_is_one_line(
    tmp_path: Path, name: str, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "_LARGE", 2**20)
    path = tmp_path / name
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _ in range(6):
            file.write(line)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(TapertuneError, match=r"cannot read '.*gz': it unpacks to more than 200 times its size"):
            for _ in open_table(path).read():
                pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert size < 2**20 and peak < 64 * 2**20


def test_a_line_that_is_no_row_for_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "LONGEST_LINE", 2**20)
    for name, content in (("a.jsonl", b'{"text": "' + b"a" * 2**20 + b'"}'), ("a.csv", b"text\n" + b"a" * 2**21)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TapertuneError, match="longer than 1 MiB"):
            list(open_table(tmp_path / name).read())


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-9], lambda whole: b"x" + whole, lambda whole: whole[:-6] + b"abcdef"]
)
def test_a_packed_file_that_is_damaged_is_named_wherever_it_is_read(damage: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(damage(gzip.compress(b"text,label\n" + b"a,no\nb,yes\n" * 20)))
    for read in (raw.whole, lambda path: list(raw.lines(path)), lambda path: list(raw.text_lines(path, None))):
        with pytest.raises(TapertuneError, match=r"cannot read .*rows\.csv\.gz"):
            read(path)
    with pytest.raises(TapertuneError, match=r"cannot read .*rows\.csv\.gz"):
        load(text_classification(), train=str(path), validation=str(path))
