"""What came of each class: precision, recall and F1, and which classes were taken for which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..events import is_count


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class."""

    name: str
    right: int = field(metadata={"help": "rows predicted to be of the class that are"})
    predicted: int = field(metadata={"help": "rows predicted to be of the class"})
    actual: int = field(metadata={"help": "rows of the class"})

    @property
    def precision(self) -> float | None:
        return self.right / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        return self.right / self.actual if self.actual else None

    @property
    def f1(self) -> float | None:
        """None where neither predictions nor labels hold the class."""
        total = self.predicted + self.actual
        return 2 * self.right / total if total else None


@dataclass(frozen=True, kw_only=True)
class Classes:
    """All classes, in the task's order; ``confusion`` holds rows by class (outer) and predicted class, or is None."""

    rows: tuple[ClassRow, ...]
    confusion: tuple[tuple[int, ...], ...] | None


def is_class_table(value: Any) -> bool:
    """Whether a record's ``classes`` can be read."""
    if not isinstance(value, Mapping):
        return False
    labels, matrix = value.get("labels"), value.get("confusion")
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        return False
    lists = [value.get(name) for name in ("right", "predicted", "actual")]
    squares = matrix if isinstance(matrix, list) else []
    if not (matrix is None or (isinstance(matrix, list) and len(matrix) == len(labels))):
        return False
    return all(
        isinstance(counts, list) and len(counts) == len(labels) and all(map(is_count, counts))
        for counts in (*lists, *squares)
    )


def build_classes(record: Mapping[str, Any]) -> Classes | None:
    """The classes of a record, None where it has none; those that are there were checked."""
    value = record.get("classes")
    if not value or not value["labels"]:
        return None
    counts = zip(value["labels"], value["right"], value["predicted"], value["actual"], strict=True)
    rows = tuple(ClassRow(name=n, right=r, predicted=p, actual=a) for n, r, p, a in counts)
    matrix = value.get("confusion")
    return Classes(rows=rows, confusion=None if matrix is None else tuple(map(tuple, matrix)))
