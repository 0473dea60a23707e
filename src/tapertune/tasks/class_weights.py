"""How much the rows of a class count in training. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import TapertuneError, bad_value, unknown

BALANCED = "balanced"


def check_weights(weights: str | Mapping[str, float] | None, labels: Sequence[str]) -> None:
    """Raises TapertuneError for weights that are neither balanced nor positive factors, or, where the classes are
    known, of a class that there is not."""
    if weights is None or weights == BALANCED:
        return
    if not isinstance(weights, Mapping):
        raise bad_value("task.class_weights", weights, f"{BALANCED}, or factors by class")
    for name, value in weights.items():
        if labels and name not in labels:
            raise unknown("class in task.class_weights", name, labels)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < float("inf"):
            raise bad_value(f"task.class_weights.{name}", value, "a positive number")


def weights_of(
    weights: str | Mapping[str, float], labels: Sequence[str], counts: Sequence[int] | None, rows: int
) -> list[float]:
    """The weight of each class.

    Balanced: ``rows / (classes x rows of the class)``, as scikit-learn has it, so that all classes count as much as
    they would if they were as frequent; a class without rows has 1.

    Args:
        weights: balanced, or factors by class name.
        labels: the names of the classes, in order.
        counts: training rows of each class; None where they are not known.
        rows: of training.

    Raises:
        TapertuneError: an unknown class, or the counts are needed and not known.

    >>> weights_of("balanced", ("a", "b"), [6, 2], 8)
    [0.6666666666666666, 2.0]
    """
    check_weights(weights, labels)
    if isinstance(weights, Mapping):
        return [float(weights.get(name, 1.0)) for name in labels]
    return [rows / (len(labels) * count) if count else 1.0 for count in _known(counts)]


def positive_weights(
    weights: str | Mapping[str, float], labels: Sequence[str], counts: Sequence[int] | None, rows: int
) -> list[float]:
    """The weight of each class's being there, where a text has several: balanced is ``rows without / rows with`` it.

    >>> positive_weights("balanced", ("a", "b"), [6, 2], 8)
    [0.3333333333333333, 3.0]
    """
    check_weights(weights, labels)
    if isinstance(weights, Mapping):
        return [float(weights.get(name, 1.0)) for name in labels]
    return [(rows - count) / count if 0 < count < rows else 1.0 for count in _known(counts)]


def _known(counts: Sequence[int] | None) -> Sequence[int]:
    if counts is None:
        raise TapertuneError(
            "task.class_weights is 'balanced', and rows of a stream are not counted beforehand: give factors by class"
        )
    return counts
