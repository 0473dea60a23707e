"""A run that learns nothing is told in one line, under any Trainer; one that learns is left alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import tiny_bert
from transformers import Trainer, TrainingArguments

import tapertune
from tapertune.integrations.watch import LearningWatch, flat


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """The class is whether the second half of the vocabulary has the first word."""

    def __init__(self, count: int, regression: bool = False) -> None:
        draw = torch.Generator().manual_seed(count)
        self.ids = torch.randint(5, 64, (count, 8), generator=draw)
        labels = torch.arange(count) % 2
        self.ids[:, 0] = torch.where(labels == 1, 40, 20)
        self.labels = labels.float() if regression else labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


def lines(folder: Path, rate: float, labels: int = 2, steps: int = 100, **changes: Any) -> list[str]:
    model = tiny_bert(labels)
    config = tapertune.make_config("lora", task_type="SEQ_CLS")
    arguments = TrainingArguments(
        str(folder), max_steps=steps, learning_rate=rate, per_device_train_batch_size=8, use_cpu=True, report_to="none",
        disable_tqdm=True, save_strategy="no", warmup_steps=0, lr_scheduler_type="constant",
        **{"eval_strategy": "steps", "eval_steps": steps, "logging_steps": 5, **changes},
    )  # fmt: skip
    found: list[str] = []
    callback = tapertune.TapertuneCallback(say=found.append)
    regression = labels == 1
    Trainer(
        get_peft_model(model, config), arguments, train_dataset=Rows(64, regression),
        eval_dataset=Rows(32, regression), callbacks=[callback],
    ).train()  # fmt: skip
    return found


def test_a_loss_that_stays_is_told_once_with_the_rate_to_try(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, 1e-9)
    assert "the training loss has not fallen over the first 40 of 100 steps" in line
    assert (
        "lora learns nothing so far. Likely the learning rate, 1e-9, is too low for a run of this length: try" in line
    )
    assert "\n" not in line


def test_one_class_for_all_is_told(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, 1e-9, steps=20)  # too short to look at the loss
    assert "at step 20 every row of the evaluation gets one class, number" in line and "too low" in line


def test_one_number_for_all_is_told(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, 30.0, labels=1, steps=20)
    assert "every row of the evaluation gets one number" in line and "too high" in line


def test_a_run_that_learns_is_left_alone(tmp_path: Path) -> None:
    assert lines(tmp_path, 2e-2) == []


def test_losses_are_read_from_the_log_where_the_model_gives_none(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, 1e-9, eval_strategy="no", label_smoothing_factor=0.1)
    assert "has not fallen" in line


def test_without_a_listener_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    watch = LearningWatch("lora")
    watch._silent = False
    with caplog.at_level(logging.WARNING, "tapertune"):
        watch._tell("this")
        watch._tell("that")
    assert [record.message.partition(":")[0] for record in caplog.records] == ["this"]


def test_uneven_losses_tell_nothing() -> None:
    assert flat([0.1, 9.0, 3.0] * 10) is None
    assert flat([float("nan")] * 30) is None
    assert flat([1.0] * 5) is None
    assert flat([0.7] * 30) == pytest.approx((0.7, 0.7))
