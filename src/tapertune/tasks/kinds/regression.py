"""One number for each text or pair of texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from ...errors import TapertuneError
from .. import fields
from ..base import Task
from . import texts
from .base import Collator, Encoded, Example, Forward, Kind, Predicted, Row, Scores
from .classification import scores


class Regression(Kind):
    """Labels are divided by ``task.scale`` for training. An answer is a number on the file's own scale."""

    auto_class = "AutoModelForSequenceClassification"
    task_type = "SEQ_CLS"

    def check(self, task: Task, row: Row, *, labelled: bool = True) -> Example:
        example: Example = {"texts": texts.texts(task, row)}
        if labelled:
            example["label"] = _number(task, fields.value(row, task.label)) / task.scale
        return example

    def check_split(self, task: Task, examples: Sequence[Example], name: str) -> None:
        if len({example["label"] for example in examples}) < 2:
            raise TapertuneError(f"{name}: all labels are alike, so {task.main_metric} cannot be computed")

    def config(self, task: Task) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    def check_model(self, task: Task, config: Any, tokenizer: Any) -> None:
        texts.check_end_token(task, config, tokenizer)

    def encode(
        self, task: Task, examples: Sequence[Example], tokenizer: Any, max_length: int, *, train: bool
    ) -> Encoded:
        return texts.encode(examples, tokenizer, max_length)

    def collator(self, task: Task, tokenizer: Any, *, train: bool) -> Collator:
        return texts.collator(tokenizer)

    def predict(self, task: Task, forward: Forward, encoded: Encoded) -> Predicted:
        logits, loss = texts.logits(forward, encoded)
        return Predicted(answers=[float(value) for value in np.squeeze(logits, -1) * task.scale], loss=loss)

    def score(self, task: Task, predicted: Predicted, examples: Sequence[Example]) -> Scores:
        labels = np.array([example["label"] for example in examples]) * task.scale
        return scores(task, np.array(predicted.answers), labels)

    def shown(self, task: Task, answer: Any) -> dict[str, Any]:
        return {"prediction": answer}


def _number(task: Task, value: Any) -> float:
    is_number = isinstance(value, str | int | float | Decimal) and not isinstance(value, bool)
    try:
        # Python reads 1_000 as a thousand, which is nobody's way of writing it in a file.
        number = float(value) if is_number and "_" not in str(value) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    low = -math.inf if task.low is None else task.low
    high = math.inf if task.high is None else task.high
    if not math.isfinite(number) or not low <= number <= high:
        span = "" if task.low is None else f" from {low:g} to {high:g}"
        raise fields.bad(task.label, value, f"a number{span}")
    return number
