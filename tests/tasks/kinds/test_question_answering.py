from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tapertune.errors import TapertuneError
from tapertune.tasks import TASKS
from tapertune.tasks.fields import BadField
from tapertune.tasks.kinds import Forward, Predicted, get_kind
from tapertune.tasks.spans import Span, Window, best_span, positions

KIND = get_kind("question_answering")
V1, V2 = (replace(TASKS[name], stride=3, max_question=4) for name in ("squad", "squad_v2"))  # pyright: ignore
CONTEXT = "the tea good  rain very warm not cold a bad tea the rain very bad"


def row(answer: str | None, question: str = "very good tea", **changes: Any) -> dict[str, Any]:
    golds = {"text": [answer], "answer_start": [CONTEXT.index(answer)]} if answer else {"text": [], "answer_start": []}
    return {"question": question, "context": CONTEXT, "answers": golds, **changes}


@pytest.mark.parametrize("answer", ["the tea", "good  rain", "warm", "not cold a", "very bad", "rain very"])
def test_answers_survive_windows_and_come_back_as_text(tokenizer: Any, answer: str) -> None:
    encoded = KIND.encode(V1, [KIND.check(V1, row(answer))], tokenizer, 14, train=True)
    assert len(encoded) > 1 and set(encoded.owners) == {0}
    found = set()
    for feature, window in zip(encoded.rows, encoded.extras, strict=True):
        assert len(feature["input_ids"]) <= 14
        start, end = feature["start_positions"], feature["end_positions"]
        if start != window.null:
            found.add(CONTEXT[window.offsets[start][0] : window.offsets[end][1]])
    assert found == {answer}


def test_every_token_is_read_and_neighbours_share_the_stride(tokenizer: Any) -> None:
    encoded = KIND.encode(V1, [KIND.check(V1, row("warm"))], tokenizer, 14, train=False)
    places = [[pair for pair in window.offsets if pair] for window in encoded.extras]
    whole = tokenizer(CONTEXT, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert sorted({pair for window in places for pair in window}) == whole
    assert all(first[-3:] == second[:3] for first, second in pairwise(places))


def test_no_answer_is_the_first_token(tokenizer: Any) -> None:
    encoded = KIND.encode(V2, [KIND.check(V2, row(None))], tokenizer, 14, train=True)
    assert {(feature["start_positions"], feature["end_positions"]) for feature in encoded.rows} == {(0, 0)}


def test_an_answer_that_is_whole_in_no_window_is_not_taught_as_none(tokenizer: Any) -> None:
    long = CONTEXT[: CONTEXT.index("bad")].strip()
    examples = [KIND.check(V2, row(answer)) for answer in ("warm", long, None)]
    found = KIND.encode(V2, examples, tokenizer, 12, train=True)
    assert set(found.owners) == {0, 2} and found.left_out == 1
    assert len(found.rows) == len(found.owners) == len(found.extras)
    evaluated = KIND.encode(V2, examples, tokenizer, 12, train=False)
    assert set(evaluated.owners) == {0, 1, 2} and evaluated.left_out == 0


def test_white_space_around_an_answer_is_not_of_it(tokenizer: Any) -> None:
    spaced = " rain very "
    answers = {"text": [spaced], "answer_start": [CONTEXT.index(spaced)]}
    example = KIND.check(V1, {**row("warm"), "answers": answers})
    assert example["golds"] == ["rain very"] and CONTEXT[example["start"] :].startswith("rain very")
    assert KIND.encode(V1, [example], tokenizer, 32, train=True).left_out == 0
    with pytest.raises(BadField, match="answers of text"):
        KIND.check(V1, {**row("warm"), "answers": {"text": [" "], "answer_start": [CONTEXT.index(" ")]}})


def test_long_questions_are_cut_and_counted(tokenizer: Any) -> None:
    examples = [KIND.check(V1, row("warm", question="good " * 9)), KIND.check(V1, row("warm"))]
    encoded = KIND.encode(V1, examples, tokenizer, 14, train=True)
    assert encoded.truncated == 1
    assert tokenizer.decode(encoded.rows[0]["input_ids"]).startswith("[CLS] good good good good [SEP] the")


def test_an_answer_half_inside_a_window_is_not_in_it() -> None:
    window = Window(offsets=[None, (0, 3), (4, 7), None], null=0)
    assert positions(window, 0, 7) == (1, 2)
    assert positions(window, 5, 6) == (2, 2)  # inside a token
    assert positions(window, 4, 9) == (0, 0)


def test_the_best_span_is_searched_over_all_windows() -> None:
    text = "one two three four"
    first = Window(offsets=[None, (0, 3), (4, 7), (8, 13)], null=0)
    second = Window(offsets=[None, (4, 7), (8, 13), (14, 18)], null=0)
    a = (first, np.array([1.0, 5.0, 0.0, 0.0]), np.array([2.0, 0.0, 0.0, 6.0]))
    b = (second, np.array([0.5, 2.0, 0.0, 0.0]), np.array([0.25, 0.0, 3.0, 0.0]))
    assert best_span(text, [a, b], 3) == Span(text="one two three", score=11.0, null=0.75)
    assert best_span(text, [b], 1).text == "three"
    backwards = (first, np.array([0.0, 0.0, 0.0, 9.0]), np.array([0.0, 9.0, 0.0, 1.0]))
    assert best_span(text, [backwards], 3).text == "three"


def test_a_model_that_points_at_the_answer_scores_one(tokenizer: Any) -> None:
    examples = [KIND.check(V2, row("not cold a")), KIND.check(V2, row(None))]
    encoded = KIND.encode(V2, examples, tokenizer, 14, train=False)

    class Oracle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids: Any, start_positions: Any, end_positions: Any, **others: Any) -> Any:
            width = input_ids.shape[1]
            starts, ends = (torch.nn.functional.one_hot(p, width) * 5.0 for p in (start_positions, end_positions))
            # A window without the answer is sure of nothing.
            weight = 1.0 + (start_positions > 0).float()[:, None]
            return SimpleNamespace(start_logits=starts * weight, end_logits=ends * weight, loss=torch.tensor(0.5))

    predicted = KIND.predict(V2, Forward(model=Oracle(), tokenizer=tokenizer, batch_size=2), encoded)
    assert predicted.loss == pytest.approx(0.5)
    assert [KIND.shown(V2, answer)["prediction"] for answer in predicted.answers] == ["not cold a", ""]
    scores = KIND.score(V2, predicted, examples)
    assert list(scores.metrics)[:2] == ["f1", "em"]
    assert scores.metrics["f1"] == scores.metrics["em"] == scores.metrics["best_f1"] == 1.0
    assert scores.values == [1.0, 1.0]


def test_the_threshold_decides_on_no_answer() -> None:
    answers = [Span(text="warm", score=1.0, null=2.0), Span(text="cold", score=1.0, null=0.0)]
    examples = [KIND.check(V2, row("warm")), KIND.check(V2, row(None))]
    scores = KIND.score(V2, Predicted(answers=answers, loss=None), examples)
    assert scores.metrics["em"] == 0.0
    assert scores.metrics["best_em"] == 0.5
    kept = replace(V2, threshold=1.0)
    assert KIND.score(kept, Predicted(answers=answers, loss=None), examples).metrics["em"] == 0.5
    assert KIND.shown(V2, answers[0]) == {"prediction": "", "null_score_difference": 1.0}


def test_single_answers_in_a_list_are_read_too() -> None:
    single = row(None, answers=[{"text": "warm", "answer_start": CONTEXT.index("warm")}])
    assert KIND.check(V1, single)["golds"] == ["warm"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(None), "it must be at least one answer"),
        (row("warm", question=None), "field 'question' is None; it must be text"),
        (row("warm", context=" "), "field 'context' is ' '; it must be text with words in it"),
        (row("warm", answers="warm"), "it must be answers such as"),
        (row("warm", answers={"text": ["warm"], "answer_start": []}), "it must be answers such as"),
        (row("warm", answers={"text": ["warm"], "answer_start": [3]}), "at 3 it does not have 'warm'"),
        (row("warm", answers={"text": ["warm"], "answer_start": ["3"]}), "whole numbers as their first characters"),
    ],
)
def test_bad_rows_are_named(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(BadField) as caught:
        KIND.check(V1, bad)
    assert message in str(caught.value)


def test_a_stride_without_room_is_refused(tokenizer: Any) -> None:
    with pytest.raises(TapertuneError, match=r"task.stride is 3; it must be less than 3"):
        KIND.encode(V1, [KIND.check(V1, row("warm"))], tokenizer, 10, train=True)


@pytest.mark.parametrize(
    "answers",
    [
        {"text": "tea", "answer_start": 0},
        {"text": ["tea"], "answer_start": 0},
        {"text": "t", "answer_start": [0]},
        {"text": {"a": 1}, "answer_start": {"b": 2}},
        {"text": [["tea"]], "answer_start": [0]},
        {"text": ["tea"], "answer_start": [False]},
        {"text": ["tea"], "answer_start": ["0"]},
        {"text": ["tea"], "answer_start": [2**80]},
        {"text": 3, "answer_start": 4},
        [["tea"]], ["tea"], "tea", 7, None, {}, [None],
    ],
)  # fmt: skip
def test_answers_of_other_forms_are_slips(answers: object) -> None:
    with pytest.raises(BadField, match="field 'answers' is"):
        KIND.check(V2, {"question": "what", "context": "tea", "answers": answers})
