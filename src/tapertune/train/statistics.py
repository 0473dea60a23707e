"""Intervals for scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[Any]


def wilson(hits: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a proportion (Wilson, 1927). It stays inside [0, 1] and holds near its ends.

    ``(p + z^2/2n +- z*sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``

    Args:
        hits: how many of ``count`` were right.
        count: rows, at least one.
        level: the confidence.

    >>> low, high = wilson(8, 10)
    >>> print(f"{low:.4f} {high:.4f}")
    0.4902 0.9433
    """
    z = float(stats.norm.ppf((1 + level) / 2))
    share = hits / count
    middle = share + z * z / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, float((middle - half) / scale)), min(1.0, float((middle + half) / scale))


def bootstrap(
    metric: Callable[[Array, Array], float],
    predictions: Array,
    labels: Array,
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap over rows (Efron, 1979): the metric's quantiles over rows drawn with replacement.

    Args:
        metric: a function of predictions and labels.
        level: the confidence.
        samples: how many times rows are drawn.
        seed: of the draws; the same seed gives the same interval.
    """
    random = np.random.default_rng(seed)
    rows = random.integers(0, len(labels), size=(samples, len(labels)))
    values = [metric(predictions[row], labels[row]) for row in rows]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
