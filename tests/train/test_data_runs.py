"""Whole runs of the further kinds of task, of streams and workers, and of data with faults."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from train.tiny_run import WORDS, raw_settings

from tapertune.errors import TapertuneError
from tapertune.runfile.record import read_record
from tapertune.runfile.settings import check_settings
from tapertune.train.runner import run


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def go(root: Path, task: dict[str, Any], method: str = "lora", **changes: Any) -> dict[str, Any]:
    return run(check_settings(raw_settings(root, method, task=task, **changes)))


def questions(count: int) -> list[dict[str, Any]]:
    draw = random.Random(1)
    rows = []
    for number in range(count):
        context = " ".join(draw.choice(WORDS) for _ in range(30))
        start = context.index("tea") if "tea" in context and number % 4 else None
        golds = {"text": ["tea"] * (start is not None), "answer_start": [start] * (start is not None)}
        rows.append({"question": "very good", "context": context, "answers": golds})
    return rows


def test_questions_are_learned_in_windows(root: Path) -> None:
    path = write(root / "questions.jsonl", questions(24))
    task = {"name": "squad_v2", "train": path, "validation": path, "max_length": 24, "stride": 4, "max_question": 4}
    record = go(root, task)
    assert list(record["metrics"]) == [
        "f1", "em", "best_f1", "best_f1_threshold", "best_em", "best_em_threshold", "loss",
    ]  # fmt: skip
    assert record["score"]["count"] == 24
    assert record["metrics"]["best_f1"] >= record["metrics"]["f1"]
    assert json.loads((root / "run" / "adapter_config.json").read_text())["task_type"] == "QUESTION_ANS"


def test_words_are_tagged(root: Path) -> None:
    draw = random.Random(2)
    rows = []
    for _ in range(40):
        words = [draw.choice(WORDS) for _ in range(draw.randrange(3, 9))]
        rows.append({"tokens": words, "tags": ["B-DRINK" if word == "tea" else "O" for word in words]})
    path = write(root / "words.jsonl", rows)
    task = {"name": "token_classification", "train": path, "validation": path, "max_length": 16}
    record = go(root, task, "full", training__num_train_epochs=8)
    assert list(record["metrics"]) == ["f1", "accuracy", "loss"]
    assert record["metrics"]["f1"] > 0.9


@pytest.mark.parametrize("stream", [False, True])
def test_workers_change_nothing_in_a_run(root: Path, stream: bool) -> None:
    task = {"name": "sst2", "data": str(root / "data"), "max_length": 16, "stream": stream}
    runs = [
        go(root, task, training__dataloader_num_workers=workers, training__max_steps=12, output_dir=str(root / name))
        for name, workers in (("none", 0), ("two", 2))
    ]
    assert runs[0]["metrics"] == runs[1]["metrics"]
    assert (root / "none" / "events.jsonl").read_bytes() == (root / "two" / "events.jsonl").read_bytes()


def test_a_stream_needs_to_know_when_to_end(root: Path) -> None:
    with pytest.raises(TapertuneError, match=r"task.stream needs training.max_steps"):
        go(root, {"name": "sst2", "data": str(root / "data"), "max_length": 16, "stream": True})
    assert not (root / "run").exists()


def test_rows_left_out_and_cut_are_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [{"text": "good tea " * (1 + n % 7), "label": n % 2} for n in range(150)]
    path = write(root / "own.jsonl", [*good[:60], {"text": None, "label": 1}, *good[60:]])
    task = {"name": "text_classification", "train": path, "validation": path, "max_length": 8, "validation_rows": 20}
    go(root, task, training__max_steps=2)
    told = capsys.readouterr().err.splitlines()
    assert f"note: {path}: 1 of 151 rows cannot be used (line 61) and were left out; the first: " in told[0]
    cut = sum(1 + n % 7 > 3 for n in range(150))
    assert told[1] == f"note: {path}: {cut} of 150 rows were longer than task.max_length (8 tokens) and were cut"


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        ("cola", [{"sentence": "a", "label": 1}] * 4, "holds one class only: mcc cannot be computed"),
        ("stsb", [{"sentence1": "a", "sentence2": "b", "label": 1}] * 4, "so pearson cannot be computed"),
        (
            "squad",
            [{"question": "a", "context": "b", "answers": {"text": [], "answer_start": []}}],
            "at least one answer",
        ),
        ("token_classification", [{"tokens": ["a"], "tags": ["O"]}], "holds one class only"),
        ("sst2", [], "is empty: it holds no rows"),
        ("sst2", [{"sentence": "a", "label": 3}], "line 1: field 'label' is 3"),
        ("sst2", [{"sentence": None, "label": 1}], "1 of 1 rows cannot be used (line 1)"),
        ("sst2", [{"text": "a", "label": 1}], "has no column 'sentence'"),
    ],
)
def test_faulty_data_is_one_line_and_writes_nothing(
    root: Path, task: str, rows: list[dict[str, Any]], message: str
) -> None:
    path = write(root / "bad.jsonl", rows)
    with pytest.raises(TapertuneError) as caught:
        go(root, {"name": task, "train": path, "validation": path, "max_length": 16})
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (root / "run").exists()


def test_a_model_of_the_wrong_kind_is_refused(root: Path) -> None:
    from transformers import ViTConfig, ViTModel

    ViTModel(
        ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(root / "vit")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (root / "vit" / name).write_bytes((root / "model" / name).read_bytes())
    with pytest.raises(TapertuneError, match=r"is a vit, which transformers has no classification model of"):
        run(check_settings(raw_settings(root, model=str(root / "vit"))))
    assert not (root / "run").exists()


def test_a_record_of_a_stream_says_what_was_read(root: Path) -> None:
    go(root, {"name": "sst2", "data": str(root / "data"), "max_length": 16, "stream": True}, training__max_steps=3)
    assert read_record(root / "run").steps == 3
    assert json.loads((root / "run" / "all_results.json").read_text())["train_samples"] >= 24
