from __future__ import annotations

import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks import TASKS
from tapertune.tasks.counts import Counts, check_trains, counts_of, notes
from tapertune.tasks.kinds import Encoded
from tapertune.tasks.own import text_classification

TASK = text_classification(text="review", text_pair="title")


def test_counts_are_of_all_rows() -> None:
    encoded = Encoded(rows=[{}], examples=[{}, {}], owners=[0], truncated=1, left_out=1)
    assert counts_of(encoded, bad=3) == Counts(rows=5, bad=3, left_out=1, cut=1)


def test_nothing_to_tell() -> None:
    assert notes(TASK, "dev", Counts(rows=5, bad=3), train=True) == []


def test_everything_to_tell() -> None:
    task = TASKS["samsum"]
    told = notes(task, "train", Counts(rows=10, bad=2, empty=1, left_out=3, cut=4, answers_cut=5), train=True)
    assert told == [
        "train: 1 of 8 rows have no text",
        "train: 3 of 8 rows were left out of training: they are longer than task.max_answer_length (96 tokens); "
        "task.cut_answers keeps such rows and cuts the answers",
        "train: 4 of 8 rows were longer than task.max_length (512 tokens) and were cut",
        "train: 5 of 8 answers were cut: they are longer than task.max_answer_length (96 tokens); "
        "task.cut_answers keeps such rows and cuts the answers",
    ]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (Counts(rows=4, bad=1, left_out=3), "train: none of 3 rows can be trained on: their answers do not fit into"),
        (Counts(rows=4, empty=4), "train: none of 4 rows has text in 'review' or 'title'"),
    ],
)
def test_rows_without_anything_to_learn(counts: Counts, message: str) -> None:
    with pytest.raises(TapertuneError, match=message):
        check_trains(TASK, "train", counts)
    check_trains(TASK, "train", Counts(rows=4, bad=1, left_out=1, empty=2))
