"""A model's score on a split, with its interval: the same while training, at its end, and for a saved adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import Trainer

from ..host import updates_kept
from ..runfile.record import Score
from ..tasks import Task
from ..tasks.kinds import Encoded, Forward, Scores, get_kind
from .statistics import bootstrap, wilson


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an evaluation found. ``metrics`` are the task's, then the loss where the rows have one; the score's interval
    was computed from ``scores``."""

    score: Score
    metrics: dict[str, float]
    scores: Scores


def forward_of(trainer: Trainer) -> Forward:
    """Runs a trainer's model with its batch size and its precision."""
    return Forward(
        model=trainer.model,
        tokenizer=trainer.processing_class,
        batch_size=trainer.args.eval_batch_size,
        context=trainer.compute_loss_context_manager,
    )


def metrics_of(task: Task, forward: Forward, rows: Encoded) -> dict[str, float]:
    """The metrics and the loss alone, without an interval."""
    return _scored(task, forward, rows)[1]


def measure(task: Task, forward: Forward, rows: Encoded) -> Measured:
    """Evaluates encoded rows."""
    scores, metrics = _scored(task, forward, rows)
    value, count = scores.metrics[task.main_metric], len(rows.examples)
    interval = _interval(scores, value, count)
    score = Score(metric=task.main_metric, value=value, count=count, interval=interval)
    return Measured(score=score, metrics=metrics, scores=scores)


def _scored(task: Task, forward: Forward, rows: Encoded) -> tuple[Scores, dict[str, float]]:
    kind = get_kind(task.kind)
    with updates_kept(forward.model):
        predicted = kind.predict(task, forward, rows)
    scores = kind.score(task, predicted, rows.examples)
    loss = {} if predicted.loss is None else {"loss": predicted.loss}
    return scores, {**scores.metrics, **loss}


def _interval(scores: Scores, value: float, count: int) -> tuple[float, float]:
    """Wilson's interval where examples are right or wrong, else a bootstrap over examples."""
    if scores.values is not None:
        values = np.array(scores.values)
        if set(scores.values) <= {0.0, 1.0}:
            return wilson(value * count, count)
        draw: Any = lambda rows: float(values[rows].mean())  # noqa: E731
    else:
        draw = scores.resample
    numbers = np.arange(count)
    return bootstrap(lambda rows, _: draw(rows), numbers, numbers)
