"""JSON that cannot be kept as it is written is no row, and never an exception."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks.fields import BadField
from tapertune.tasks.files import open_table

FAULTS = {
    '{"a": ' + "[" * 100 + "]" * 100 + "}": "nested more than 100 levels deep",
    '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}": "nested more than 100 levels deep",
    '{"a": ' * 5000 + "1" + "}" * 5000: "nested more than 100 levels deep",
    '{"a": 1, "b": 2, "a": 3}': "two fields are called 'a'",
    '{"a": ' + "9" * 5000 + "}": "a number in it has too many digits",
    '{"a": 1e400}': "the number 1e400 is too large",
    '{"a": "x \\ud83d y"}': "it holds half of a character ('\\ud83d'), which is no text",
    '{"\\udc00": 1}': "it holds half of a character ('\\udc00')",
}


@pytest.mark.parametrize("text", FAULTS, ids=range(len(FAULTS)))
def test_faults_in_lines_and_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"a": 1}}\n{text}\n{{"a": 2}}\n')
    first, (number, bad), last = open_table(tmp_path / "a.jsonl").read()
    assert (first, last) == ((1, {"a": 1}), (3, {"a": 2}))
    assert number == 2 and isinstance(bad, BadField) and FAULTS[text] in str(bad)
    (tmp_path / "a.json").write_text(f"[{text}]")
    with pytest.raises(TapertuneError) as caught:
        list(open_table(tmp_path / "a.json").read())
    assert FAULTS[text] in str(caught.value) and str(tmp_path / "a.json") in str(caught.value)


def test_what_is_unusual_but_right_is_kept(tmp_path: Path) -> None:
    row = {"id": 2**70, "x": 0.1, "emoji": "\U0001f600", "deep": [[[[{"a": None}]]]], "t": True, "nul": "\0"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({"many": [[1]] * 500}) + "\n")
    assert [found for _, found in open_table(tmp_path / "a.jsonl").read()] == [row, {"many": [[1]] * 500}]
