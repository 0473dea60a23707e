"""Several classes a text, and weights of classes, through the command's own parts, with every method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from train.tiny_run import raw_settings

from tapertune.methods import METHODS
from tapertune.report import load_run, render_html, render_markdown
from tapertune.runfile.record import read_record
from tapertune.runfile.settings import BASELINES, check_settings
from tapertune.train.evaluation import evaluate, predict
from tapertune.train.runner import run

ROWS = [("good tea", ["tea", "fine"]), ("bad rain", ["rain"]), ("the cold", []), ("warm tea good", ["fine", "tea"])] * 4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    lines = [json.dumps({"text": text, "topics": topics}) for text, topics in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    table = ["text,topics", *(f"{text},{';'.join(topics)}" for text, topics in ROWS)]
    (folder / "rows.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    return folder


def settings(root: Path, method: str, rows: Path, **task: Any) -> Any:
    raw = raw_settings(root, method)
    raw.pop("plan", None)
    block = {
        "name": "text_classification",
        "train": str(rows),
        "validation": str(rows),
        "label": "topics",
        "max_length": 16,
    }
    training = {"learning_rate": 1e-2, "per_device_train_batch_size": 8, "max_steps": 2, "logging_steps": 1}
    quiet = {"eval_strategy": "no", "save_strategy": "no"}
    return check_settings({**raw, "task": {**block, **task}, "training": {**training, **quiet}})


@pytest.mark.parametrize("method", [*METHODS, *BASELINES])
def test_every_method_learns_several_classes(root: Path, files: Path, method: str) -> None:
    run(settings(root, method, files / "rows.jsonl", multi_label=True))
    record = read_record(root / "run")
    assert record.score is not None and record.score.metric == "micro_f1"
    assert record.classes is not None and record.classes.actual == [8, 4, 8]
    task, scores, _ = evaluate(root / "run", start=lambda rows: lambda done: None)
    assert task.labels == ("fine", "rain", "tea")
    assert scores["validation"].score.value == pytest.approx(record.score.value)


def test_answers_exports_and_merges_know_of_several_classes(root: Path, files: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    from tapertune.interop import export_lora, merge

    run(settings(root, "aflora", files / "rows.csv", multi_label=True, label_separator=";", class_weights="balanced"))
    predict(root / "run", files / "rows.csv", tmp_path / "out.jsonl", start=lambda rows: lambda done: None)
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(set(row["prediction"]) <= {"fine", "rain", "tea"} for row in answers)
    assert all(len(row["prediction"]) == len(row["probability"]) for row in answers)
    merge(str(root / "model"), root / "run", tmp_path / "merged")
    model: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert model.config.problem_type == "multi_label_classification"
    assert list(model.config.id2label.values()) == ["fine", "rain", "tea"]
    export_lora(root / "run", tmp_path / "served")
    assert json.loads((tmp_path / "served" / "task.json").read_text())["labels"] == ["fine", "rain", "tea"]
    labels = torch.tensor([[1.0, 0.0, 1.0]])
    assert bool(torch.isfinite(model(input_ids=torch.tensor([[2, 5, 3]]), labels=labels).loss))
    block: dict[str, Any] = {"label": "topics", "multi_label": True, "label_separator": ";", "max_length": 16}
    count, _ = predict(
        tmp_path / "merged", files / "rows.csv", tmp_path / "again.jsonl", task="text_classification",
        start=lambda rows: lambda done: None, **block,
    )  # fmt: skip
    assert count == len(ROWS)
    merged = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["prediction"] for row in merged] == [row["prediction"] for row in answers]


def test_a_report_shows_classes_and_weights_change_the_loss(root: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"text": text, "topics": "<b>" if "good" in text else "b|c"}) for text, _ in ROWS]
    rows.write_text("\n".join(lines), encoding="utf-8")
    run(settings(root, "lora", rows))
    plain = load_run(root / "run")
    assert plain.classes is not None and plain.classes.confusion is not None
    assert sum(map(sum, plain.classes.confusion)) == len(ROWS)
    page = render_html([plain])
    assert (
        "Which class was taken for which" in page and "&lt;b&gt; predicted as" in page and "<b> predicted" not in page
    )
    assert "| class | precision | recall | F1 | rows | predicted | right |" in render_markdown([plain])
    weighted = {"<b>": 3.0, "b|c": 3.0}
    run(settings(root, "lora", rows, class_weights=weighted), overwrite=True)
    first, second = (data.losses[0].value for data in (plain, load_run(root / "run")))
    assert second == pytest.approx(3 * first, rel=1e-3)
