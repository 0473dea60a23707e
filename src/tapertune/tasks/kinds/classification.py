"""One class for each text or pair of texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import TapertuneError
from .. import fields
from ..base import Task
from ..metrics import PROPORTIONS, get_metric
from . import texts
from .base import Collator, Encoded, Example, Forward, Kind, Place, Predicted, Row, Scores

_LARGE = 12  # beyond this many, class names are counted in messages, not listed


class Classification(Kind):
    """Classes by number or by name. An answer is the probability of each class."""

    auto_class = "AutoModelForSequenceClassification"
    task_type = "SEQ_CLS"

    def prepare(self, task: Task, rows: Iterable[tuple[Place, Row]]) -> Task:
        return task if task.labels else replace(task, labels=found_labels(task, rows))

    def check(self, task: Task, row: Row, *, labelled: bool = True) -> Example:
        example: Example = {"texts": texts.texts(task, row)}
        if labelled:
            example["label"] = class_number(task, fields.value(row, task.label))
        return example

    def check_split(self, task: Task, examples: Sequence[Example], name: str) -> None:
        found = {example["label"] for example in examples}
        for metric in task.metrics:
            if metric == "mcc" and len(found) < 2:
                raise TapertuneError(f"{name} holds one class only: mcc cannot be computed")
            if metric == "f1" and 1 not in found:
                raise TapertuneError(f"{name} holds no row of class {task.labels[1]!r}: f1 cannot be computed")

    def config(self, task: Task) -> dict[str, Any]:
        return {**label_names(task), "problem_type": "single_label_classification"}

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
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        return Predicted(answers=list(powers / powers.sum(-1, keepdims=True)), loss=loss)

    def score(self, task: Task, predicted: Predicted, examples: Sequence[Example]) -> Scores:
        predictions = np.argmax(np.stack(predicted.answers), axis=-1)
        labels = np.array([example["label"] for example in examples])
        return scores(task, predictions, labels)

    def shown(self, task: Task, answer: Any) -> dict[str, Any]:
        best = int(np.argmax(answer))
        return {"prediction": task.labels[best], "probability": round(float(answer[best]), 6)}


def scores(task: Task, predictions: np.ndarray, labels: np.ndarray) -> Scores:
    """All of a task's metrics of predictions and labels, one an example."""
    found = {name: get_metric(name)(predictions, labels) for name in task.metrics}
    if task.main_metric in PROPORTIONS:
        return Scores(metrics=found, values=(predictions == labels).astype(float).tolist())
    metric = get_metric(task.main_metric)
    return Scores(metrics=found, resample=lambda rows: metric(predictions[rows], labels[rows]))


def label_names(task: Task) -> dict[str, Any]:
    """The config's two tables of class names."""
    return {
        "id2label": dict(enumerate(task.labels)),
        "label2id": {name: number for number, name in enumerate(task.labels)},
    }


def class_number(task: Task, value: Any) -> int:
    """The number of a class that is given by number or by name.

    Raises:
        BadField: it is neither.
        UnknownLabel: it is a number or a name, but none of the task's.
    """
    if isinstance(value, str) and value in task.labels:
        return task.labels.index(value)
    number = fields.whole(value)
    numeric = any(fields.whole(name) is not None for name in task.labels)
    # Names that are numbers themselves (stars 1 to 5) are names, not positions.
    if number is not None and str(number) in task.labels:
        return task.labels.index(str(number))
    if number is not None and 0 <= number < len(task.labels) and not numeric:
        return number
    names = ", ".join(task.labels) if len(task.labels) <= _LARGE else f"one of {len(task.labels)} names"
    allowed = names if numeric else f"a whole number from 0 to {len(task.labels) - 1} or a name: {names}"
    formed = number is not None or (isinstance(value, str) and bool(value.strip()))
    raise fields.bad(task.label, value, allowed, fields.UnknownLabel if formed else fields.BadField)


def found_labels(task: Task, rows: Iterable[tuple[Place, Row]]) -> tuple[str, ...]:
    """The classes that the training rows hold: numbers in their own order (2 before 10), then names."""
    found: set[int | str] = set()
    where, none = "the training data", ""
    for place, row in rows:
        where = place.rpartition(", ")[0]
        value = row.get(task.label)
        number = fields.whole(value)
        if number is not None:
            found.add(number)
        elif isinstance(value, str) and value.strip():
            found.add(value)
        else:  # a row that cannot be used, which ``check`` says of it
            none = none or f", and {value!r}, which is neither a whole number nor a name"
    if len(found) < 2:
        what = f"one class only ({next(iter(found))})" if found else "no class"
        raise TapertuneError(f"{where}: column {task.label!r} holds {what}{none}; there must be at least two")
    return tuple(str(value) for value in sorted(found, key=lambda v: (isinstance(v, str), v)))
