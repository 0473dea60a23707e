from __future__ import annotations

import csv
import datetime
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks.files import open_table
from tapertune.tasks.output import written_rows

ROW: dict[str, Any] = {
    "id": "007", "big": 2**70, "x": 0.1, "t": True, "n": None, "text": 'a "b"\r\nc\rd,\te', "list": [1, {"a": "é"}],
    "day": datetime.date(2024, 5, 1), "price": Decimal("1.10"), "bytes": b"\xff",
}  # fmt: skip


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_csv_reads_back_as_it_was(tmp_path: Path, name: str) -> None:
    with written_rows(tmp_path / name, [*ROW, "more"]) as write:
        write(ROW)
        write({"id": "1", "more": "x"})
    first, second = (row for _, row in open_table(tmp_path / name).read())
    assert first == {
        "id": "007", "big": str(2**70), "x": "0.1", "t": "true", "n": "", "text": ROW["text"],
        "list": '[1, {"a": "é"}]', "day": "2024-05-01", "price": "1.10", "bytes": "/w==", "more": "",
    }  # fmt: skip
    assert second == {**dict.fromkeys(first, ""), "id": "1", "more": "x"}


def test_json_lines(tmp_path: Path) -> None:
    with written_rows(tmp_path / "a.jsonl", []) as write:
        write(ROW)
    plain = {"day": "2024-05-01", "price": "1.10", "bytes": "/w=="}
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {**ROW, **plain}


def test_a_file_appears_whole_with_usual_permissions_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.csv.tmp").write_text("mine")
    with pytest.raises(RuntimeError), written_rows(tmp_path / "a.csv", ["a"]) as write:
        write({"a": 1})
        raise RuntimeError
    assert os.listdir(tmp_path) == ["a.csv.tmp"]
    old = os.umask(0o022)
    try:
        with written_rows(tmp_path / "a.csv", ["a"]) as write:
            write({"a": "b"})
    finally:
        os.umask(old)
    assert (tmp_path / "a.csv").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "a.csv.tmp").read_text() == "mine" and len(os.listdir(tmp_path)) == 2
    with (tmp_path / "a.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["a"], ["b"]]
    with pytest.raises(TapertuneError, match="cannot write"), written_rows(tmp_path / "none" / "a.csv", []):
        pass
