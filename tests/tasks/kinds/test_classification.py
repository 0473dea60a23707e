from __future__ import annotations

import numpy as np
import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks import TASKS, text_classification
from tapertune.tasks.fields import BadField, UnknownLabel
from tapertune.tasks.kinds import Predicted, get_kind
from tapertune.tasks.kinds.classification import class_number, found_labels

KIND = get_kind("classification")
EXAMPLES = [{"texts": ["a"], "label": label} for label in (1, 0, 1)]
ANSWERS = Predicted(answers=[np.array([0.2, 0.8]), np.array([0.6, 0.4]), np.array([0.9, 0.1])], loss=None)


def test_metrics_come_main_one_first() -> None:
    scores = KIND.score(TASKS["mrpc"], ANSWERS, EXAMPLES)
    assert list(scores.metrics) == ["accuracy", "f1"]
    assert scores.values == [1.0, 1.0, 0.0]
    assert scores.metrics["accuracy"] == pytest.approx(2 / 3)
    assert scores.metrics["f1"] == pytest.approx(2 / 3)


def test_own_metrics_are_named() -> None:
    task = text_classification(labels=["a", "b"], metrics=["macro_f1", "accuracy"])
    scores = KIND.score(task, ANSWERS, EXAMPLES)
    assert list(scores.metrics) == ["macro_f1", "accuracy"] and scores.resample is not None
    with pytest.raises(TapertuneError, match=r"unknown metric in task.metrics 'macrof1': did you mean 'macro_f1'"):
        text_classification(metrics=["macrof1"])
    with pytest.raises(TapertuneError, match=r"task.metrics is 'f1'; it must be a list of accuracy"):
        text_classification(metrics="f1")
    three = text_classification(labels=["a", "b", "c"], metrics=["f1"])
    with pytest.raises(TapertuneError, match="f1 is of two classes, and there are 3: measure macro_f1"):
        KIND.check_split(three, EXAMPLES, "dev")


def test_a_metric_over_all_rows_is_drawn_anew() -> None:
    scores = KIND.score(TASKS["cola"], ANSWERS, EXAMPLES)
    assert scores.values is None and scores.resample is not None
    assert scores.resample(np.array([0, 1])) == 1.0


def test_an_answer_is_shown_by_name() -> None:
    assert KIND.shown(TASKS["sst2"], np.array([0.25, 0.75])) == {"prediction": "positive", "probability": 0.75}


def test_what_cannot_be_measured_is_said() -> None:
    one = [{"texts": ["a"], "label": 0}] * 3
    KIND.check_split(TASKS["sst2"], one, "dev")
    with pytest.raises(TapertuneError, match="dev holds one class only: mcc cannot be computed"):
        KIND.check_split(TASKS["cola"], one, "dev")
    with pytest.raises(TapertuneError, match="dev holds no row of class 'equivalent': f1 cannot be computed"):
        KIND.check_split(TASKS["mrpc"], one, "dev")


def test_a_label_of_no_class_is_told_from_a_slip() -> None:
    task = TASKS["sst2"]
    for slip in (None, 1.5, "", True):
        with pytest.raises(BadField) as caught:
            class_number(task, slip)
        assert not isinstance(caught.value, UnknownLabel)
    for other in (2, -1, "good"):
        with pytest.raises(UnknownLabel):
            class_number(task, other)


def test_found_classes_are_in_their_own_order() -> None:
    rows = [("x, line 1", {"label": value}) for value in ("b", 10, "2", None, "a", 2.0)]
    task = found_labels(text_classification(), rows)
    assert task.labels == ("2", "10", "a", "b")
    assert task.values == ("2", 10, "a", "b")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["yes", "yes"], r"dev: column 'label' holds one class only \(yes\); there must be at least two"),
        ([None, None], "holds no class, and None, which is neither a whole number nor a name"),
        ([0.0, 0.5], r"holds one class only \(0.0\), and 0.5, which is neither"),
        ([True, True], r"holds one class only \(true\)"),
        ([["a"], {"b": 1}], r"holds no class, and \['a'\], which is neither"),
    ],
)
def test_columns_without_classes_show_what_they_hold(values: list[object], message: str) -> None:
    rows = [(f"dev, line {number}", {"label": value}) for number, value in enumerate(values)]
    with pytest.raises(TapertuneError, match=message):
        found_labels(text_classification(), rows)
