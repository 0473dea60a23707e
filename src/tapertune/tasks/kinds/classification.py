"""One class for each text or pair of texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import TapertuneError
from .. import fields
from ..base import Task
from ..class_weights import check_weights, weights_of
from ..classes import Label, alike, in_order, spellings, written
from ..metrics import PROPORTIONS, get_metric
from . import texts
from .base import ClassCounts, Collator, Encoded, Example, Forward, Kind, Place, Predicted, Row, Scores
from .losses import weighted_cross_entropy

_LARGE = 12  # beyond this many, class names are counted in messages, not listed
_LONG = 40  # characters of a name in messages
_LONGEST = 10_000  # characters of a label that is one
_MOST_CONFUSED = 100  # of more classes no matrix is kept
_MOST = 10_000  # classes found in a file; a text column has as many as rows


class Classification(Kind):
    """Classes by number or by name. An answer is the probability of each class."""

    auto_class = "AutoModelForSequenceClassification"
    task_type = "SEQ_CLS"

    def prepare(self, task: Task, rows: Iterable[tuple[Place, Row]]) -> Task:
        task = task if task.labels else found_labels(task, rows)
        check_weights(task.class_weights, task.labels)
        return task

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
            if metric == "f1" and len(task.labels) != 2:
                raise TapertuneError(f"f1 is of two classes, and there are {len(task.labels)}: measure macro_f1")
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

    def training_loss(self, task: Task, train: Encoded | None) -> Any:
        if task.class_weights is None:
            return None
        numbers = None if train is None else [row["labels"] for row in train.rows]
        counts = None if numbers is None else np.bincount(numbers, minlength=len(task.labels)).tolist()
        return weighted_cross_entropy(weights_of(task.class_weights, task.labels, counts, len(numbers or ())))

    def predict(self, task: Task, forward: Forward, encoded: Encoded) -> Predicted:
        logits, loss = texts.logits(forward, encoded)
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        return Predicted(answers=list(powers / powers.sum(-1, keepdims=True)), loss=loss)

    def score(self, task: Task, predicted: Predicted, examples: Sequence[Example]) -> Scores:
        predictions = np.argmax(np.stack(predicted.answers), axis=-1)
        labels = np.array([example["label"] for example in examples])
        return replace(scores(task, predictions, labels), classes=class_counts(task, predictions, labels))

    def answer_columns(self, task: Task) -> tuple[str, ...]:
        return "prediction", "probability"

    def shown(self, task: Task, answer: Any) -> dict[str, Any]:
        best = int(np.argmax(answer))
        return {"prediction": task.written_label(best), "probability": round(float(answer[best]), 6)}


def scores(task: Task, predictions: np.ndarray, labels: np.ndarray) -> Scores:
    """All of a task's metrics of predictions and labels, one an example."""
    found = {name: get_metric(name)(predictions, labels) for name in task.metrics}
    if task.main_metric in PROPORTIONS:
        return Scores(metrics=found, values=(predictions == labels).astype(float).tolist())
    metric = get_metric(task.main_metric)
    return Scores(metrics=found, resample=lambda rows: metric(predictions[rows], labels[rows]))


def class_counts(task: Task, predictions: np.ndarray, labels: np.ndarray) -> ClassCounts:
    """What came of each class, one of them an example."""
    count = len(task.labels)
    matrix = np.zeros((count, count), dtype=int)
    np.add.at(matrix, (labels, predictions), 1)
    return ClassCounts(
        labels=task.labels,
        right=matrix.diagonal().tolist(),
        predicted=matrix.sum(0).tolist(),
        actual=matrix.sum(1).tolist(),
        confusion=matrix.tolist() if count <= _MOST_CONFUSED else None,
    )


def label_names(task: Task) -> dict[str, Any]:
    """The config's two tables of class names."""
    return {
        "id2label": dict(enumerate(task.labels)),
        "label2id": {name: number for number, name in enumerate(task.labels)},
    }


def class_number(task: Task, value: Any) -> int:
    """The number of a class that is given by name, or by number where names are declared and none is a number.

    Raises:
        BadField: it is neither.
        UnknownLabel: it is a number or a name, but none of the task's.
    """
    named = task.classes.number(value)
    if named is not None:
        return named
    number = fields.whole(value)
    # Names that are numbers themselves (stars 1 to 5) are names, not positions; so are all that were found in a file.
    by_position = not task.values and not task.classes.numeric
    if by_position and number is not None and 0 <= number < len(task.labels):
        return number
    kind = fields.UnknownLabel if _is_formed(task, value) else fields.BadField
    raise fields.bad(task.label, value, _allowed(task, value, by_position), kind)


def _is_formed(task: Task, value: Any) -> bool:
    """Whether it could be a label, if not one of this task's."""
    truth = isinstance(value, bool) and not any(isinstance(known, bool) for known in task.values)
    return bool(spellings(value)) and not truth


def _allowed(task: Task, value: Any, by_position: bool) -> str:
    shown = [name if len(name) <= _LONG else fields.short(name, _LONG) for name in task.labels[:_LARGE]]
    names = ", ".join(shown) if len(task.labels) <= _LARGE else f"one of {len(task.labels)} names"
    if isinstance(value, str) and len(value) <= _LONG:
        near = next((name for name in task.labels if alike([name, value])), None)
        names += (
            "" if near is None else f" (from {near!r} it differs in white space, in case or as a number is written)"
        )
    if by_position:
        return f"a whole number from 0 to {len(task.labels) - 1} or a name: {names}"
    return names if task.classes.numeric else f"a whole number or a name, of those in the training data: {names}"


def found_labels(task: Task, rows: Iterable[tuple[Place, Row]]) -> Task:
    """The task with the classes that the training rows hold: numbers in their own order (2 before 10), then names.

    Raises:
        TapertuneError: there are fewer than two, or so many that the column is none of labels.
    """
    values: dict[str, Label] = {}
    where, none = "the training data", ""
    for place, row in rows:
        where = place.rpartition(", ")[0]
        value = row.get(task.label)
        names = spellings(value)
        if names and len(names[0]) > _LONGEST:
            raise TapertuneError(f"{place}: field {task.label!r} holds {len(names[0])} characters, which is no label")
        if names:
            values.setdefault(names[0], written(value))
        else:  # a row that cannot be used, which ``check`` says of it
            none = none or f", and {fields.short(value)}, which is neither a whole number nor a name"
        if len(values) > _MOST:
            raise TapertuneError(
                f"{where}: column {task.label!r} holds more than {_MOST} different values: is it the label? If they are"
                " all classes, list them as task.labels"
            )
    for name, value in list(values.items()):  # 2.0 is 2, if 2 is written as well
        if not isinstance(value, str) and any(other in values for other in spellings(value)[1:]) and "." in name:
            del values[name]
    if len(values) < 2:
        what = f"one class only ({fields.short(next(iter(values)))[1:-1]})" if values else "no class"
        raise TapertuneError(f"{where}: column {task.label!r} holds {what}{none}; there must be at least two")
    names = in_order(values)
    return replace(task, labels=tuple(names), values=tuple(values[name] for name in names))
