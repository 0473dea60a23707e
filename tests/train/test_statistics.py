from __future__ import annotations

import numpy as np
import pytest

from tapertune.tasks.metrics import accuracy, pearson
from tapertune.train.statistics import bootstrap, wilson


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I (method 3)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(hits: int, count: int, low: float, high: float) -> None:
    assert wilson(hits, count) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_is_symmetric_and_stays_inside() -> None:
    low, high = wilson(20, 20)
    assert (1 - high, 1 - low) == (pytest.approx(0.0), pytest.approx(wilson(0, 20)[1]))


def test_bootstrap_is_seeded_and_near_wilson() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    predictions = np.where(random.random(400) < 0.8, labels, 1 - labels)
    interval = bootstrap(accuracy, predictions, labels)
    assert interval == bootstrap(accuracy, predictions, labels)
    assert interval != bootstrap(accuracy, predictions, labels, seed=1)
    hits = float((predictions == labels).sum())
    assert np.allclose(interval, wilson(hits, 400), atol=0.01)


def test_bootstrap_of_a_perfect_correlation_is_a_point() -> None:
    x = np.arange(30.0)
    assert bootstrap(pearson, x, 2 * x, samples=50) == (pytest.approx(1.0), pytest.approx(1.0))
