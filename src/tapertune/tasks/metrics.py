"""Metrics by name, each a function of predictions and labels, computed by scikit-learn and SciPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics

from ..errors import unknown

Array = NDArray[Any]
Metric = Callable[[Array, Array], float]


def accuracy(predictions: Array, labels: Array) -> float:
    """The share of rows predicted right; of several classes a row, all of them."""
    return float(metrics.accuracy_score(labels, predictions))


def f1(predictions: Array, labels: Array) -> float:
    """F1 of class 1, as GLUE scores MRPC and QQP; 0 where neither predictions nor labels hold the class."""
    return float(metrics.f1_score(labels, predictions, pos_label=1, zero_division=0.0))  # pyright: ignore[reportArgumentType]


def micro_f1(predictions: Array, labels: Array) -> float:
    """F1 of all classes' decisions together; of one class a text it is the accuracy."""
    return float(metrics.f1_score(labels, predictions, average="micro", zero_division=0.0))  # pyright: ignore[reportArgumentType]


def macro_f1(predictions: Array, labels: Array) -> float:
    """The mean of the classes' F1, over those that predictions or labels hold: rare classes count as much as others."""
    if labels.ndim == 2:
        held = predictions.any(0) | labels.any(0)
        if not held.any():
            return 0.0
        predictions, labels = predictions[:, held], labels[:, held]
    return float(metrics.f1_score(labels, predictions, average="macro", zero_division=0.0))  # pyright: ignore[reportArgumentType]


def weighted_f1(predictions: Array, labels: Array) -> float:
    """The mean of the classes' F1, each by its share of the labels."""
    return float(metrics.f1_score(labels, predictions, average="weighted", zero_division=0.0))  # pyright: ignore[reportArgumentType]


def balanced_accuracy(predictions: Array, labels: Array) -> float:
    """The mean of the classes' recall, over those that the labels hold."""
    right = predictions == labels
    return float(np.mean([right[labels == number].mean() for number in np.unique(labels)]))


def mcc(predictions: Array, labels: Array) -> float:
    """Matthews' correlation; 0 where all predictions are alike."""
    return float(metrics.matthews_corrcoef(labels, predictions))


def pearson(predictions: Array, labels: Array) -> float:
    """Pearson's correlation; 0 where either side is constant (it is undefined there)."""
    return _correlation(stats.pearsonr, predictions, labels)


def spearman(predictions: Array, labels: Array) -> float:
    """Spearman's rank correlation; 0 where either side is constant (it is undefined there)."""
    return _correlation(stats.spearmanr, predictions, labels)


METRICS: dict[str, Metric] = {
    "accuracy": accuracy, "f1": f1, "micro_f1": micro_f1, "macro_f1": macro_f1, "weighted_f1": weighted_f1,
    "balanced_accuracy": balanced_accuracy, "subset_accuracy": accuracy, "mcc": mcc, "pearson": pearson,
    "spearman": spearman,
}  # fmt: skip
PROPORTIONS = frozenset({"accuracy", "subset_accuracy"})


def get_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        TapertuneError: there is none; the message names the nearest.
    """
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    return METRICS[name]


def _correlation(function: Callable[..., object], predictions: Array, labels: Array) -> float:
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(getattr(function(predictions, labels), "statistic"))  # noqa: B009 (SciPy's stubs differ by function)
