from __future__ import annotations

import socket
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapertune.tasks import TASKS
from tapertune.tasks.generation import TEXT_METRICS, GenerationTask
from tapertune.tasks.kinds import Predicted, get_kind
from tapertune.tasks.summarisation import SUMMARISATION
from tapertune.tasks.text_metrics import rouge

# Output, reference, and F-measures worked out by hand from counts of common words, pairs and the longest common
# subsequence. Rows 1 to 7 are also cases of rouge-score's own tests.
BY_HAND = [
    ("testing", "testing one two", {"rouge1": 2 * 1 * (1 / 3) / (1 + 1 / 3), "rouge2": 0.0, "rougeL": 0.5}),
    ("testing one", "testing one two", {"rouge1": 0.8, "rouge2": 2 / 3, "rougeL": 0.8}),
    ("one two", "testing one two", {"rouge1": 0.8, "rouge2": 2 / 3, "rougeL": 0.8}),
    ("one two one two", "testing one two", {"rouge1": 4 / 7, "rouge2": 2 / 5, "rougeL": 4 / 7}),
    ("", "testing one two", {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}),
    ("testing one two", "", {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}),
    ("the the the the", "the cat", {"rouge1": 1 / 3, "rouge2": 0.0, "rougeL": 1 / 3}),
    ("police kill the gunman", "police killed the gunman", {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}),
    ("the gunman kill police", "police killed the gunman", {"rouge1": 1.0, "rouge2": 1 / 3, "rougeL": 0.5}),
    ("The CAT, sat!", "the cat sat", {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}),
    ("a b c d e", "a x c y e", {"rouge1": 0.6, "rouge2": 0.0, "rougeL": 0.6}),
]


@pytest.mark.parametrize(("output", "reference", "wanted"), BY_HAND)
def test_rouge_by_hand(output: str, reference: str, wanted: dict[str, float]) -> None:
    found = rouge(output, reference)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value), name
        assert TEXT_METRICS[name](output, reference) == found[name]


def test_sentences_by_line_for_the_summary_level() -> None:
    """rougeLsum takes lines one by one, so that their order does not count; rougeL takes the text as one."""
    found = rouge("one two\nthree four", "three four\none two")
    assert found["rougeLsum"] == 1.0
    assert found["rougeL"] == 0.5


WORDS = st.lists(st.sampled_from(["a", "b", "c", "dd", "ee"]), max_size=12)


def by_count(output: list[str], reference: list[str], size: int) -> float:
    mine, theirs = (
        Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1)) for words in (output, reference)
    )
    common = sum((mine & theirs).values())
    return 2 * common / (mine.total() + theirs.total()) if common else 0.0


def by_subsequence(output: list[str], reference: list[str]) -> float:
    row = [0] * (len(reference) + 1)
    for word in output:
        previous = 0
        for i, other in enumerate(reference, 1):
            previous, row[i] = row[i], previous + 1 if word == other else max(row[i], row[i - 1])
    return 2 * row[-1] / (len(output) + len(reference)) if row[-1] else 0.0


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS)
def test_rouge_by_definition(output: list[str], reference: list[str]) -> None:
    found = rouge(" ".join(output), " ".join(reference))
    assert found["rouge1"] == pytest.approx(by_count(output, reference, 1))
    assert found["rouge2"] == pytest.approx(by_count(output, reference, 2))
    assert found["rougeL"] == pytest.approx(by_subsequence(output, reference))


def test_they_are_declared_for_encoder_decoders_and_run_with_decoders() -> None:
    assert [task.name for task in SUMMARISATION] == ["xsum", "cnn_dailymail", "samsum"]
    row = {"dialogue": "Tom: hi\r\nAnn: hello", "summary": "Tom greets Ann."}
    samsum = TASKS["samsum"]
    assert isinstance(samsum, GenerationTask)
    assert get_kind(samsum.kind).check(samsum, row)["instruction"] == row["dialogue"]
    from dataclasses import replace

    decoder = replace(samsum, kind="causal_lm")
    example = get_kind(decoder.kind).check(decoder, row)
    assert (example["instruction"], example["context"]) == ("Summarize the following conversation.", row["dialogue"])


def test_a_splits_score_is_the_mean_of_its_rows() -> None:
    samsum = TASKS["samsum"]
    kind = get_kind(samsum.kind)
    rows = [{"dialogue": "d", "summary": summary} for summary in ("testing one two", "a b c d e")]
    examples = [kind.check(samsum, row) for row in rows]
    scores = kind.score(samsum, Predicted(answers=["testing one", "a x c y e"], loss=None), examples)
    assert list(scores.metrics) == ["rouge1", "rouge2", "rougeL"]
    assert scores.metrics["rouge1"] == pytest.approx((0.8 + 0.6) / 2)
    assert scores.values == pytest.approx([0.8, 0.6])


def test_nothing_is_fetched_when_summaries_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """NLTK would want data of its own for splitting sentences; for stemming it wants none."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    rouge.cache_clear()
    assert rouge("First. Second.", "First.\nSecond.")["rouge1"] == 1.0
