"""From a data file to a run file that trains."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tapertune.methods import METHODS
from tapertune.runfile.settings import BASELINES, load_settings
from tapertune.tasks import OWN, TASKS

REVIEWS = [{"id": i, "review": f"{'a long and winding text' * (i % 3 + 1)} {i}", "verdict": ["good", "bad"][i % 2]}
           for i in range(60)]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def guessed(cli: Any, folder: Path, rows: list[dict[str, Any]], *options: Any) -> dict[str, Any]:
    out = folder / "run.yaml"
    done = cli("init", write(folder / "rows.jsonl", rows), "--out", out, *options)
    assert (done.code, done.err) == (0, "")
    return load_settings(out).task.model_dump(exclude_defaults=True)


def test_columns_are_guessed_from_names_and_values(cli: Any, tmp_path: Path) -> None:
    task = guessed(cli, tmp_path, REVIEWS)
    assert (task["name"], task["text"], task["label"]) == ("text_classification", "review", "verdict")
    assert task["validation"] == 0.1


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "chat"),
        ({"prompt": "a", "completion": "b"}, "prompt_completion"),
        ({"tokens": ["a"], "tags": ["O"]}, "token_classification"),
        ({"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": [0]}}, "question_answering"),
    ],
)
def test_layouts_that_names_tell(cli: Any, tmp_path: Path, row: dict[str, Any], name: str) -> None:
    assert guessed(cli, tmp_path, [row] * 20)["name"] == name


def test_numbers_are_a_regression_and_pairs_are_seen(cli: Any, tmp_path: Path) -> None:
    rows = [{"sentence1": f"some text {i}", "sentence2": f"other {i}", "score": i / 10} for i in range(100)]
    task = guessed(cli, tmp_path, rows)
    assert (task["name"], task["text"], task["text_pair"]) == ("regression", "sentence1", "sentence2")


def test_columns_can_be_named_and_a_misspelt_one_is_guessed(cli: Any, tmp_path: Path) -> None:
    assert guessed(cli, tmp_path, REVIEWS, "--label", "id")["label"] == "id"
    done = cli("init", tmp_path / "rows.jsonl", "--out", tmp_path / "b.yaml", "--label", "verdct")
    assert done.code == 2 and "did you mean 'verdict'" in done.err and not (tmp_path / "b.yaml").exists()


def test_nothing_is_replaced_unasked(cli: Any, tmp_path: Path) -> None:
    guessed(cli, tmp_path, REVIEWS)
    before = (tmp_path / "run.yaml").read_text()
    done = cli("init", tmp_path / "rows.jsonl", "--out", tmp_path / "run.yaml", "--method", "lora")
    assert done.code == 2 and "--overwrite" in done.err and (tmp_path / "run.yaml").read_text() == before
    assert cli("init", tmp_path / "rows.jsonl", "--out", tmp_path / "run.yaml", "--overwrite").code == 0


def test_what_cannot_be_guessed_is_asked_for(cli: Any, tmp_path: Path) -> None:
    rows = [{"one": f"text {i}", "two": f"more {i}"} for i in range(30)]
    done = cli("init", write(tmp_path / "rows.jsonl", rows), "--out", tmp_path / "run.yaml")
    assert done.code == 2 and "name it with --label. Columns: one, two" in done.err


@pytest.mark.parametrize("method", ["lora2", "full"])
def test_it_trains(cli: Any, root: Path, method: str) -> None:
    rows = [{"text": f"{word} tea", "label": word} for word in ("good", "bad") for _ in range(20)]
    out = root / "run.yaml"
    file = write(root / "rows.jsonl", rows)
    assert cli("init", file, "--out", out, "--model", root / "model", "--method", method).code == 0
    done = cli(
        "train",
        out,
        "--training.max_steps",
        2,
        "--output_dir",
        root / "run",
        "--training.use_cpu",
        "true",
        "--task.max_length",
        16,
    )
    assert done.code == 0, done.err


@pytest.mark.parametrize("method", [*METHODS, *BASELINES])
def test_a_run_file_for_every_method(cli: Any, tmp_path: Path, method: str) -> None:
    rows, out = write(tmp_path / "rows.jsonl", REVIEWS), tmp_path / "run.yaml"
    assert cli("init", rows, "--out", out, "--method", method).code == 0
    plain = load_settings(out)
    assert plain.method.name == method and plain.method.fields == {}
    # what stands in comments are the defaults, under the names that a run takes
    lines = out.read_text()
    shown = re.findall(r"^  # (\w+): (.+?)  # ", lines.partition("\nmethod:")[2].partition("\ntraining:")[0], re.M)
    if method in METHODS:
        assert {name for name, _ in shown} == {f.name for f in dataclasses.fields(METHODS[method].settings)}
        given = {f"method.{name}": yaml.safe_load(value) for name, value in shown}
        assert load_settings(out, given).method.name == method


def test_tasks_are_listed(cli: Any) -> None:
    done = cli("tasks")
    assert done.code == 0 and all(name in done.out for name in (*OWN, *TASKS))
