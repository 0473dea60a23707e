from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks import TASKS, regression
from tapertune.tasks.fields import BadField
from tapertune.tasks.kinds import Predicted, get_kind

KIND, TASK = get_kind("regression"), TASKS["stsb"]


def test_labels_are_scaled_for_training_and_back_for_the_score() -> None:
    rows = [{"sentence1": "a", "sentence2": "b", "label": label} for label in (0, "2.5", 5.0)]
    examples = [KIND.check(TASK, row) for row in rows]
    assert [example["label"] for example in examples] == [0.0, 0.5, 1.0]
    scores = KIND.score(TASK, Predicted(answers=[0.0, 2.0, 5.0], loss=0.1), examples)
    assert list(scores.metrics) == ["pearson", "spearman"]
    assert scores.metrics["spearman"] == pytest.approx(1.0)
    assert scores.resample is not None
    assert scores.resample(np.array([0, 2])) == pytest.approx(1.0)
    assert KIND.shown(TASK, 2.0) == {"prediction": 2.0}


def test_labels_all_alike_cannot_be_correlated() -> None:
    with pytest.raises(TapertuneError, match="dev: all labels are alike, so pearson cannot be computed"):
        KIND.check_split(TASK, [{"texts": ["a", "b"], "label": 0.5}] * 3, "dev")


@pytest.mark.parametrize("value", ["1_0", True, b"1", 10**400, "1e999", "nan", "", "1,5", "--5", [1], {}, "0x1"])
def test_what_is_no_number(value: object) -> None:
    with pytest.raises(BadField, match=r"field 'y' is .*; it must be a number"):
        KIND.check(regression(label="y"), {"text": "a", "y": value})


@pytest.mark.parametrize(
    ("value", "number"), [("1e5", 1e5), ("02.50", 2.5), (Decimal("1.10"), 1.1), (" 3 ", 3), (7, 7)]
)
def test_numbers_however_they_are_written(value: object, number: float) -> None:
    assert KIND.check(regression(label="y"), {"text": "a", "y": value})["label"] == number
