"""Searching a rate: on rows held out of the training file, to go on with later, and written as a run file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from train.tiny_run import raw_settings, write_data

from tapertune.errors import TapertuneError
from tapertune.runfile.settings import load_settings
from tapertune.tasks.files import open_table
from tapertune.train.tune import tune

PARTS = ("train", "selection")


def raw(root: Path, method: str = "lora", **changes: Any) -> dict[str, Any]:
    (root / "more").mkdir(exist_ok=True)
    write_data(root / "more", rows=80)
    found = raw_settings(root, method, task__data=str(root / "more"), **changes)
    found["training"] = {"per_device_train_batch_size": 16, "num_train_epochs": 1}
    found.pop("plan", None)
    return found


@pytest.mark.extra
def test_a_search_writes_the_best_and_goes_on(root: Path) -> None:
    pytest.importorskip("optuna")
    said: list[str] = []
    first = tune(raw(root, "lora2"), root / "tune", trials=1, rank=True, key_setting=True, say=said.append)
    assert first.trials == len(said) == 1
    more = tune(raw(root, "lora2"), root / "tune", trials=3, rank=True, key_setting=True, say=said.append)
    assert more.trials == len(said) == 3 and more.score >= first.score
    assert set(more.values) == {"training.learning_rate", "method.init_r", "method.k"}
    settings = load_settings(more.file)
    assert settings.training["learning_rate"] == more.values["training.learning_rate"]
    assert settings.method.fields["init_r"] == more.values["method.init_r"]
    assert settings.task.data == str(root / "more")  # the tuned file trains on all rows
    texts = {n: {row["sentence"] for _, row in open_table(root / "tune" / f"{n}.jsonl").rows()} for n in PARTS}
    assert texts["train"] and texts["selection"] and not texts["train"] & texts["selection"]
    assert not list((root / "tune").glob("trial-*"))
    with pytest.raises(TapertuneError, match="holds a search with other settings"):
        tune(raw(root, "lora"), root / "tune", trials=1)


@pytest.mark.extra
def test_what_cannot_be_searched(root: Path) -> None:
    pytest.importorskip("optuna")
    few = {**raw(root), "task": {**raw(root)["task"], "train_rows": 10}}
    with pytest.raises(TapertuneError, match="too few to hold 8 out of"):
        tune(few, root / "few", trials=1)
    with pytest.raises(TapertuneError, match="--minutes is 0; it must be more than 0"):
        tune(raw(root), root / "none", trials=1, minutes=0)
    with pytest.raises(TapertuneError, match="head has neither a rank nor settings"):
        tune(raw(root, "head"), root / "none", trials=1, rank=True)
    with pytest.raises(TapertuneError, match="holds files that are no search's"):
        tune(raw(root), root / "data", trials=1)
