from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks import text_classification
from tapertune.tasks.classes import Classes, alike
from tapertune.tasks.data import load
from tapertune.tasks.fields import BadField, UnknownLabel
from tapertune.tasks.kinds.classification import class_number, found_labels


def found(values: list[Any]) -> Any:
    return found_labels(text_classification(), [("x, line 1", {"label": value}) for value in values])


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["02134", "2134", "1", "01"], ["1", "2134", "01", "02134"]),
        (["1.0", "1", "1e5", "007", "7"], ["1", "1.0", "7", "007", "1e5"]),
        ([" yes", "yes", "Yes", "yes "], [" yes", "Yes", "yes", "yes "]),
        (["NaN", "NA", "null", "None", "", "  "], ["NA", "NaN", "None", "null"]),
        (["--5", "-5", "+5", "٣"], ["-5", "+5", "--5", "٣"]),
        ([True, False, None], ["false", "true"]),
        ([True, 1], ["1", "true"]),
        ([1, 1.0, 2], ["1", "2"]),
        ([1, "01", "x"], ["1", "01", "x"]),
        ([2**70, 2**70 + 1], [str(2**70), str(2**70 + 1)]),
        (["9" * 5000, "a"], ["9" * 5000, "a"]),
        (["2024-01-02", "2024-01-01"], ["2024-01-01", "2024-01-02"]),
    ],
)
def test_classes_are_what_is_written(values: list[Any], names: list[str]) -> None:
    task = found(values)
    assert list(task.labels) == names
    for name in names:  # text finds its own class
        assert task.labels[class_number(task, name)] == name
    for value in values:
        if value not in (None, "", "  "):
            class_number(task, value)


@pytest.mark.parametrize("value", [0, 1, "0", 2.0, "--5", "9" * 5000, "02134 ", "2134"])
def test_a_number_is_no_position_among_classes_that_were_found(value: Any) -> None:
    for task in (found(["02134", "00501"]), found(["cat", "dog"])):
        with pytest.raises(UnknownLabel):
            class_number(task, value)


def test_a_number_is_a_position_among_declared_names_where_it_is_written_as_one() -> None:
    task = text_classification(labels=("cat", "dog"))
    assert [class_number(task, value) for value in (1, "1", 1.0, "dog")] == [1] * 4
    for value in ("01", "1.0", "--1", "+1"):
        with pytest.raises(UnknownLabel):
            class_number(task, value)


def test_a_label_that_is_nearly_one_is_told_what_it_is_near_to() -> None:
    with pytest.raises(UnknownLabel, match=r"is 'Cat '; .*cat, dog \(from 'cat' it differs in white space, in case"):
        class_number(found(["cat", "dog"]), "Cat ")


@pytest.mark.parametrize("value", [None, [], {}, b"x", float("nan"), float("inf"), 0.5, [["deep"]], " "])
def test_what_is_no_label_is_a_slip(value: Any) -> None:
    with pytest.raises(BadField) as caught:
        class_number(found(["cat", "dog"]), value)
    assert not isinstance(caught.value, UnknownLabel)


def test_very_many_classes_are_quick_or_one_line(tmp_path: Path) -> None:
    begun = time.monotonic()
    names = [f"class {number}" for number in range(200_000)]
    with pytest.raises(
        TapertuneError, match=r"column 'label' holds more than 10000 different values: is it the label\?"
    ):
        found(names)
    task = text_classification(labels=tuple(names))
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "a", "label": name}) + "\n" for name in names[::20]))
    data = load(task, train=str(path), validation=str(path))
    assert [example["label"] for example in data.evaluation["validation"].examples] == list(range(0, 200_000, 20))
    assert alike(names) == []
    assert time.monotonic() - begun < 20
    with pytest.raises(TapertuneError, match="line 1: field 'label' holds 10000000 characters, which is no label"):
        found(["a" * 10**7, "b"])


def test_names_are_looked_up_once_they_are_known() -> None:
    classes = Classes.of(["1", "true", "2.0"])
    assert [classes.number(value) for value in (1, 1.0, True, "True", 2, "2")] == [0, 0, 1, None, 2, None]
