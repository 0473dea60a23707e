"""Any number of classes for each text or pair of texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ...errors import TapertuneError
from .. import fields
from ..base import Task
from ..class_weights import check_weights, positive_weights
from ..metrics import PROPORTIONS, get_metric
from . import texts
from .base import ClassCounts, Collator, Encoded, Example, Feature, Forward, Kind, Place, Predicted, Row, Scores
from .classification import class_number, found_labels, label_names
from .losses import weighted_binary_cross_entropy

_LEAST = 0.5  # probability from which a class is given


class MultiLabel(Kind):
    """Classes by name, as a list or as text with separators; none at all are right too. An answer is the probability of
    each class by itself."""

    auto_class = "AutoModelForSequenceClassification"
    task_type = "SEQ_CLS"

    def prepare(self, task: Task, rows: Iterable[tuple[Place, Row]]) -> Task:
        task = task if task.labels else found_labels(task, _single(task, rows))
        check_weights(task.class_weights, task.labels)
        return task

    def check(self, task: Task, row: Row, *, labelled: bool = True) -> Example:
        example: Example = {"texts": texts.texts(task, row)}
        if labelled:
            example["label"] = [0] * len(task.labels)
            for value in parts(task, fields.value(row, task.label)):
                example["label"][class_number(task, value)] = 1
        return example

    def check_split(self, task: Task, examples: Sequence[Example], name: str) -> None:
        if task.main_metric not in PROPORTIONS and not any(any(example["label"]) for example in examples):
            raise TapertuneError(f"{name}: no row has a class, so {task.main_metric} cannot be computed")

    def config(self, task: Task) -> dict[str, Any]:
        return {**label_names(task), "problem_type": "multi_label_classification"}

    def check_model(self, task: Task, config: Any, tokenizer: Any) -> None:
        texts.check_end_token(task, config, tokenizer)

    def encode(
        self, task: Task, examples: Sequence[Example], tokenizer: Any, max_length: int, *, train: bool
    ) -> Encoded:
        return texts.encode(examples, tokenizer, max_length)

    def collator(self, task: Task, tokenizer: Any, *, train: bool) -> Collator:
        return _collator(tokenizer)

    def training_loss(self, task: Task, train: Encoded | None) -> Any:
        if task.class_weights is None:
            return None
        counts = None if train is None else np.sum([row["labels"] for row in train.rows], axis=0).tolist()
        rows = 0 if train is None else len(train)
        return weighted_binary_cross_entropy(positive_weights(task.class_weights, task.labels, counts, rows))

    def predict(self, task: Task, forward: Forward, encoded: Encoded) -> Predicted:
        logits, loss = texts.logits(forward, encoded, _collator(forward.tokenizer))
        return Predicted(answers=list(0.5 * (1 + np.tanh(0.5 * logits))), loss=loss)

    def score(self, task: Task, predicted: Predicted, examples: Sequence[Example]) -> Scores:
        predictions = (np.stack(predicted.answers) >= _LEAST).astype(int)
        labels = np.array([example["label"] for example in examples])
        metrics = {name: get_metric(name)(predictions, labels) for name in task.metrics}
        classes = ClassCounts(
            labels=task.labels,
            right=(predictions & labels).sum(0).tolist(),
            predicted=predictions.sum(0).tolist(),
            actual=labels.sum(0).tolist(),
        )
        if task.main_metric in PROPORTIONS:
            values = (predictions == labels).all(1).astype(float).tolist()
            return Scores(metrics=metrics, values=values, classes=classes)
        metric = get_metric(task.main_metric)
        return Scores(metrics=metrics, resample=lambda rows: metric(predictions[rows], labels[rows]), classes=classes)

    def answer_columns(self, task: Task) -> tuple[str, ...]:
        return "prediction", "probability"

    def shown(self, task: Task, answer: Any) -> dict[str, Any]:
        given = [number for number, probability in enumerate(answer) if probability >= _LEAST]
        return {
            "prediction": [task.written_label(number) for number in given],
            "probability": [round(float(answer[number]), 6) for number in given],
        }


def parts(task: Task, value: Any) -> list[Any]:
    """The classes of a row as they are written: of a list its entries, of text what stands between separators.

    Raises:
        BadField: it is neither, such as null.
    """
    if isinstance(value, str):
        return [part.strip() for part in value.split(task.separator) if part.strip()]
    if isinstance(value, list | tuple):
        return list(value)
    if value is None or isinstance(value, dict):
        raise fields.bad(task.label, value, f"a list of classes, or text with {task.separator!r} between them")
    return [value]


def _single(task: Task, rows: Iterable[tuple[Place, Row]]) -> Iterator[tuple[Place, Row]]:
    for place, row in rows:
        try:
            values = parts(task, row.get(task.label))
        except fields.BadField:
            continue  # ``check`` says so
        for value in values:
            yield place, {task.label: value}


def _collator(tokenizer: Any) -> Collator:
    """Padded texts; labels as the numbers from 0 to 1 that the loss asks for."""
    pad = texts.collator(tokenizer)

    def collate(features: list[Feature]) -> dict[str, Any]:
        import torch

        rows = [{name: value for name, value in feature.items() if name != "labels"} for feature in features]
        batch = dict(pad(rows))
        if "labels" in features[0]:
            batch["labels"] = torch.tensor([feature["labels"] for feature in features], dtype=torch.float)
        return batch

    return collate
