from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks import text_classification
from tapertune.tasks.fields import BadField
from tapertune.tasks.kinds import Predicted, get_kind
from tapertune.tasks.kinds.multi_label import parts

TASK = text_classification(label="topics", labels=("a", "b", "c"), multi_label=True)
KIND = get_kind(TASK.kind)


@pytest.mark.parametrize(
    ("value", "label"),
    [(["a", "c"], [1, 0, 1]), ("a| c ", [1, 0, 1]), ([], [0, 0, 0]), ("", [0, 0, 0]), ("b", [0, 1, 0])],
)
def test_a_row_has_any_number_of_classes(value: Any, label: list[int]) -> None:
    assert KIND.check(TASK, {"text": "x", "topics": value})["label"] == label


@pytest.mark.parametrize(("value", "message"), [(None, "a list of classes"), ({"a": 1}, "a list"), (["a", "d"], "'d'")])
def test_what_is_no_class_is_named(value: Any, message: str) -> None:
    with pytest.raises(BadField, match=message):
        KIND.check(TASK, {"text": "x", "topics": value})


def test_classes_and_their_separator_are_found_in_the_file() -> None:
    task = text_classification(label="topics", multi_label=True, label_separator=";")
    rows = [("f, line 1", {"topics": "sun; rain"}), ("f, line 2", {"topics": ["snow", "rain"]})]
    assert get_kind(task.kind).prepare(task, rows).labels == ("rain", "snow", "sun")
    assert parts(task, "sun; rain;") == ["sun", "rain"]


def test_scores_are_those_of_scikit_learn_and_classes_are_counted() -> None:
    from sklearn.metrics import accuracy_score, f1_score

    draw = np.random.default_rng(0)
    answers, labels = draw.random((40, 3)), draw.integers(0, 2, (40, 3))
    examples = [{"texts": ["x"], "label": row.tolist()} for row in labels]
    scores = KIND.score(TASK, Predicted(answers=list(answers), loss=None), examples)
    predictions = (answers >= 0.5).astype(int)
    wanted = {f"{kind}_f1": f1_score(labels, predictions, average=kind) for kind in ("micro", "macro")}
    assert scores.metrics == pytest.approx({**wanted, "subset_accuracy": accuracy_score(labels, predictions)})
    assert scores.classes is not None and scores.classes.confusion is None
    assert scores.classes.actual == labels.sum(0).tolist()
    assert scores.resample is not None
    assert scores.resample(np.arange(40)) == pytest.approx(scores.metrics["micro_f1"])


def test_answers_are_shown_as_lists() -> None:
    shown = KIND.shown(TASK, np.array([0.9, 0.2, 0.5]))
    assert shown == {"prediction": ["a", "c"], "probability": [0.9, 0.5]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metrics": ["accuracy"], "multi_label": True}, "micro_f1"),
        ({"metrics": ["micro_f1"]}, "unknown metric in task.metrics 'micro_f1': did you mean"),
        ({"label_separator": " "}, "task.label_separator is ' '"),
        ({"class_weights": "balance"}, "task.class_weights is 'balance'; it must be balanced"),
        ({"class_weights": {"a": 0}}, "task.class_weights.a is 0; it must be a positive number"),
        ({"class_weights": {"aa": 1.0}, "labels": ["a", "b"]}, "unknown class in task.class_weights 'aa'"),
    ],
)
def test_what_cannot_be_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(TapertuneError) as caught:
        text_classification(**fields)
    assert message in str(caught.value)
