from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tapertune.tasks import Task, text_classification, token_classification
from tapertune.tasks.data import load


def notes(folder: Path, train: list[Any], validation: list[Any] | None = None, task: Task | None = None) -> list[str]:
    names = {"train": train} if validation is None else {"train": train, "validation": validation}
    for name, rows in names.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = [str(folder / f"{name}.jsonl") for name in (*names, "train")][:2]
    return load(task or text_classification(), train=paths[0], validation=paths[1]).notes


def rows(labels: list[Any], start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"text {start + n}", "label": label} for n, label in enumerate(labels)]


def test_nothing_to_say(tmp_path: Path) -> None:
    assert notes(tmp_path, rows(["a", "b"] * 10), rows(["a", "b"] * 10, 100)) == []
    assert notes(tmp_path, rows([1, 2, 3, 4, 5] * 4), rows([1, 2], 100)) == []


def test_labels_that_are_nearly_alike(tmp_path: Path) -> None:
    [note] = notes(tmp_path, rows(["yes", " yes", "no", "No", "1", "01", "x", "X"] * 4), rows(["no", "x"], 100))
    assert "differ only in white space, in case or as a number is written: '1' and '01', 'No' and 'no', 'X' and" in note
    assert "and 1 more pairs" in note
    tags = [{"tokens": "a b", "tags": "B-per B-PER"}] * 2
    [note] = notes(tmp_path, tags, [{"tokens": "c b", "tags": "B-per B-PER"}], token_classification())
    assert "'B-PER' and 'B-per'" in note


def test_texts_for_labels(tmp_path: Path) -> None:
    [note] = notes(tmp_path, rows([f"a {n}" for n in range(20)]), rows(["a 1", "a 2"], 100))
    assert note == "column 'label' holds 20 different values in 20 rows: is it the label?"
    long = "one two three four five six seven eight nine"
    [note] = notes(tmp_path, rows([long, "b"] * 3), rows(["b", long], 100))
    assert note.startswith("column 'label' holds texts, such as 'one two")
    assert "column 'text' is both the text and the label" in notes(
        tmp_path, rows([1, 2] * 6), rows([1, 2] * 6), text_classification(label="text")
    )


def test_rows_that_are_trained_on_and_evaluated_on(tmp_path: Path) -> None:
    [note] = notes(tmp_path, rows(["a", "b"] * 5))
    assert note.startswith("validation is the training file itself (")
    [note] = notes(tmp_path, rows(["a", "b"] * 5), rows(["a", "b"] * 3) + rows(["a", "b"], 100))
    assert "validation: 6 of 8 rows of " in note
    assert notes(tmp_path, rows(["a", "b"] * 5), rows(["a", "b"]) + rows(["a", "b"], 100)) == []
    (tmp_path / "copy.jsonl").write_bytes((tmp_path / "train.jsonl").read_bytes())
    copy = load(text_classification(), train=str(tmp_path / "train.jsonl"), validation=str(tmp_path / "copy.jsonl"))
    assert copy.notes[0].startswith("validation is the same as the training file (")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "train.jsonl")
    data = load(text_classification(), train=str(tmp_path / "train.jsonl"), validation=str(tmp_path / "link.jsonl"))
    assert data.notes[0].startswith("validation is the training file itself (")
