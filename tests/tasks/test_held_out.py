"""A share of the training rows, where there is no file to evaluate on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks import text_classification
from tapertune.tasks.data import load, load_evaluation, training_table

TASK = text_classification(labels=["no", "yes"])


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{('no', 'yes')[i % 2]}\n" for i in range(400)))
    return str(path)


def test_each_row_is_on_one_side_and_always_the_same(file: str) -> None:
    data = load(TASK, train=file, validation=0.2)
    kept = [example["texts"][0] for example in data.train.examples]  # type: ignore[union-attr]
    held = [example["texts"][0] for example in data.evaluation["validation"].examples]
    assert sorted(kept + held) == sorted(f"text {i}" for i in range(400)) and 60 < len(held) < 100
    again = load_evaluation(TASK, train=file, validation=0.2)["validation"]
    assert [example["texts"][0] for example in again.examples] == held
    assert [row["text"] for _, row in training_table(TASK, train=file, validation=0.2).rows()] == kept


def test_a_folder_s_training_rows_can_be_shared_too(file: str) -> None:
    Path(file).rename(Path(file).with_name("train.csv"))
    data = load(TASK, data=str(Path(file).parent), validation=0.5)
    assert len(data.train) + len(data.evaluation["validation"]) == 400  # type: ignore[arg-type]


def test_a_share_that_leaves_no_rows(file: str) -> None:
    with pytest.raises(TapertuneError, match=r"of the 400 rows of .*rows.csv that leaves none to evaluate"):
        load(TASK, train=file, validation=1e-6)
    with pytest.raises(TapertuneError, match=r"share of the training rows between 0 and 1"):
        load(TASK, train=file, validation=1.5)
