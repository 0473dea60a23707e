"""What a run checks of its settings against its data before it begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from train.tiny_run import raw_settings

from tapertune.errors import TapertuneError
from tapertune.runfile.settings import check_settings
from tapertune.train.prepare import prepare

BEST = {"training__load_best_model_at_end": True, "training__eval_strategy": "steps", "training__eval_steps": 4}


@pytest.mark.parametrize("name", ["accuracy", "eval_accuracy", "loss"])
def test_checkpoints_are_compared_by_a_metric_of_the_task(root: Path, name: str) -> None:
    prepared = prepare(check_settings(raw_settings(root, "lora", **BEST, training__metric_for_best_model=name)))
    assert prepared.args.metric_for_best_model == name


def test_a_metric_that_the_task_has_not(root: Path) -> None:
    changes: dict[str, Any] = {**BEST, "training__metric_for_best_model": "acuracy"}
    with pytest.raises(TapertuneError, match=r"metric_for_best_model 'acuracy': did you mean 'accuracy'\?"):
        prepare(check_settings(raw_settings(root, "lora", **changes)))


def test_what_squad_finds_besides_its_metrics_counts_too(root: Path) -> None:
    rows = root / "questions.json"
    answers = {"text": ["tea"], "answer_start": [0]}
    rows.write_text(json.dumps([{"question": "good", "context": "tea", "answers": answers}]))
    task = {"name": "squad_v2", "train": str(rows), "validation": str(rows)}
    task |= {"max_length": 16, "max_question": 2, "stride": 2}
    prepare(check_settings(raw_settings(root, "lora", task=task, **BEST, training__metric_for_best_model="best_f1")))
    task["name"] = "squad"
    with pytest.raises(TapertuneError, match="Allowed: em, f1, loss"):
        prepare(
            check_settings(raw_settings(root, "lora", task=task, **BEST, training__metric_for_best_model="best_f1"))
        )


def test_rows_without_text(root: Path) -> None:
    train = root / "empty.jsonl"
    train.write_text('{"sentence": " ", "label": 0}\n{"sentence": "", "label": 1}\n')
    task = {"name": "sst2", "train": str(train), "validation": str(root / "data" / "validation.jsonl")}
    settings = check_settings(raw_settings(root, "lora", task={**task, "max_length": 16}))
    with pytest.raises(TapertuneError, match=r"empty.jsonl: none of 2 rows has text in 'sentence'"):
        prepare(settings)
    train.write_text('{"sentence": " ", "label": 0}\n{"sentence": "good", "label": 1}\n')
    assert prepare(settings).notes == [f"{train}: 1 of 2 rows have no text"]
