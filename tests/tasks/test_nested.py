from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks import TASKS, data
from tapertune.tasks.fields import BadField
from tapertune.tasks.files import open_table
from tapertune.tasks.nested import flattened

CONTEXTS = ("The river Wey rises in Alton.", "Tea is grown in Assam and on the hills of Ceylon.")


def article(*, unanswerable: bool) -> dict[str, Any]:
    """As the data set's authors lay it out: the second question of each paragraph has no answer in 2.0."""
    paragraphs = []
    for number, (context, answer) in enumerate(zip(CONTEXTS, ("Alton", "Assam"), strict=True)):
        gold = [{"text": answer, "answer_start": context.index(answer)}]
        first = {"id": f"{number}a", "question": "Where?", "answers": gold}
        second = {"id": f"{number}b", "question": "When?", "answers": gold}
        if unanswerable:
            first["is_impossible"] = False
            second |= {"answers": [], "plausible_answers": gold, "is_impossible": True}
        paragraphs.append({"context": context, "qas": [first, second]})
    return {"title": "Places", "paragraphs": paragraphs}


def write(path: Path, value: Any) -> Path:
    text = json.dumps(value).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize(
    ("task", "version", "names"),
    [
        ("squad", "1.1", ("train-v1.1.json", "dev-v1.1.json")),
        ("squad_v2", "v2.0", ("train-v2.0.json", "dev-v2.0.json")),
        ("squad_v2", "v2.0", ("train.json", "validation.json.gz")),
    ],
)
def test_squads_own_files_are_read(tmp_path: Path, task: str, version: str, names: tuple[str, str]) -> None:
    unanswerable = task == "squad_v2"
    for name in names:
        write(tmp_path / name, {"version": version, "data": [article(unanswerable=unanswerable)] * 2})
    loaded = data.load(TASKS[task], data=str(tmp_path))
    assert isinstance(loaded.train, data.Split)
    assert len(loaded.train) == 8 and len(loaded.evaluation["validation"]) == 8
    assert loaded.train.examples[2] == {
        "question": "Where?", "context": CONTEXTS[1], "golds": ["Assam"], "start": CONTEXTS[1].index("Assam"),
    }  # fmt: skip
    assert [example["golds"] == [] for example in loaded.train.examples] == [False, unanswerable] * 4


def test_each_version_has_its_own_names(tmp_path: Path) -> None:
    for version in ("1.1", "2.0"):
        for name in (f"train-v{version}.json", f"dev-v{version}.json"):
            write(tmp_path / name, {"data": [article(unanswerable=version == "2.0")]})
    one, two = (data.load(TASKS[task], data=str(tmp_path)) for task in ("squad", "squad_v2"))
    assert isinstance(one.train, data.Split) and isinstance(two.train, data.Split)
    assert (one.train.name, two.train.name) == tuple(str(tmp_path / f"train-v{v}.json") for v in ("1.1", "2.0"))
    with pytest.raises(TapertuneError, match=r"row 2: field 'answers' is .*at least one answer"):
        data.load(TASKS["squad"], train=two.train.name, validation=one.train.name)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_json_file_may_be_a_list_of_rows(tmp_path: Path, wrapped: bool) -> None:
    rows = [{"text": "a", "label": 0}, 7, {"text": "b", "label": 1}]
    table = open_table(write(tmp_path / "a.json", {"data": rows} if wrapped else rows))
    assert [row for _, row in table.rows()] == [rows[0], rows[2]]
    assert [place.rpartition(", ")[2] for place, _ in table.rows()] == ["row 1", "row 3"]


def test_a_json_file_may_hold_json_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}\n{"a": 2}\n')
    assert [row for _, row in open_table(tmp_path / "a.json").rows()] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"paragraphs": {}}, "'paragraphs' must be a list"),
        ({"paragraphs": ["x"]}, "'paragraphs' must be a list of JSON objects"),
        ({"paragraphs": [{"qas": []}]}, "a paragraph has no 'context'"),
        ({"paragraphs": [{"context": "x"}]}, "'qas' must be a list"),
        ({"paragraphs": [{"context": "x", "qas": [1]}]}, "'qas' must be a list of JSON objects"),
        ("x", "it must be a JSON object"),
    ],
)
def test_what_is_not_laid_out_so_is_a_bad_row(entry: Any, message: str) -> None:
    [found] = flattened(entry)
    assert isinstance(found, BadField) and message in str(found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"version": "1.1"}', "it must hold a list of rows, or an object with one under 'data'"),
        ('[{"a": 1},\n {"a": ]', r"a.json, line 2: not JSON: Expecting value \(column 8\)"),
        ("", "a.json, line 1: not JSON: Expecting value"),
        ("[]", "a.json is empty: it holds no rows"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(TapertuneError, match=message):
        open_table(tmp_path / "a.json").first()
