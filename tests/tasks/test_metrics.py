from __future__ import annotations

import math

import numpy as np
import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks.metrics import METRICS, get_metric

# 3 true positives, 1 false positive, 2 false negatives, 4 true negatives
LABELS = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
PREDICTIONS = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0])


def test_proportions_in_closed_form() -> None:
    assert METRICS["accuracy"](PREDICTIONS, LABELS) == pytest.approx(7 / 10)
    assert METRICS["f1"](PREDICTIONS, LABELS) == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert METRICS["mcc"](PREDICTIONS, LABELS) == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))


def test_means_over_classes_in_closed_form() -> None:
    one, zero = 2 * 3 / (2 * 3 + 1 + 2), 2 * 4 / (2 * 4 + 2 + 1)
    assert METRICS["macro_f1"](PREDICTIONS, LABELS) == pytest.approx((one + zero) / 2)
    assert METRICS["weighted_f1"](PREDICTIONS[:6], LABELS[:6]) == pytest.approx(5 / 6 * (6 / 9) + 0)
    assert METRICS["balanced_accuracy"](PREDICTIONS, LABELS) == pytest.approx((3 / 5 + 4 / 5) / 2)


def test_correlations_in_closed_form() -> None:
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 10.0])
    dx, dy = x - x.mean(), y - y.mean()
    assert METRICS["pearson"](x, y) == pytest.approx((dx * dy).sum() / math.sqrt((dx**2).sum() * (dy**2).sum()))
    # Ranks 1 2 3 4 against 1 3 2 4: 1 - 6 * sum(d^2) / (n (n^2 - 1))
    assert METRICS["spearman"](x, y) == pytest.approx(1 - 6 * 2 / (4 * 15))


@pytest.mark.parametrize("name", ["mcc", "pearson", "spearman"])
def test_constant_predictions_score_zero(name: str) -> None:
    assert METRICS[name](np.zeros(10), LABELS) == 0.0


def test_f1_without_the_class_is_zero() -> None:
    assert METRICS["f1"](np.zeros(3, dtype=int), np.zeros(3, dtype=int)) == 0.0


def test_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(TapertuneError, match=r"unknown metric 'acuracy': did you mean 'accuracy'?"):
        get_metric("acuracy")
