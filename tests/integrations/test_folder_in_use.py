"""Two trainings in one folder: the second is refused and told of the first, whichever method and entrance it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from entrances import USUAL, adapted, trainer_of, under_trainer
from test_lock import held_by_another, tried_by_another
from transformers import TrainerCallback

import tapertune
from tapertune.errors import TapertuneError
from tapertune.integrations import whole_checkpoint
from tapertune.lock import LOCK
from tapertune.methods import METHODS


class At(TrainerCallback):
    """Does something after a step."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.act()


def train(folder: Path, *more: TrainerCallback, method: str = "lora") -> None:
    trainer = trainer_of(adapted(method), folder, USUAL, [tapertune.TapertuneCallback(), *more])
    trainer.train(resume_from_checkpoint=whole_checkpoint(folder))


@pytest.mark.parametrize("method", METHODS)
def test_a_folder_in_use_is_refused_and_left_as_it_is(method: str, tmp_path: Path) -> None:
    with held_by_another(tmp_path) as process:
        with pytest.raises(TapertuneError, match=f"in use by process {process.pid} on .* since 2"):
            under_trainer(method, tmp_path)()
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_another_process_is_refused_while_it_trains_and_not_after(tmp_path: Path) -> None:
    told: list[str] = []
    train(tmp_path, At(3, lambda: told.append(tried_by_another(tmp_path))))
    assert len(told) == 1 and "is in use by process" in told[0]
    assert not (tmp_path / LOCK).exists() and tried_by_another(tmp_path) == ""


def test_what_is_refused_keeps_nobody_out(tmp_path: Path) -> None:
    trainer = trainer_of(
        adapted("aflora"), tmp_path, USUAL, [tapertune.TapertuneCallback({"schedule": {"warmup": 99}})]
    )
    with pytest.raises(TapertuneError):
        trainer.train()
    assert list(tmp_path.iterdir()) == []


def test_the_same_process_may_train_again_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        train(tmp_path, At(3, fail))
    (tmp_path / ".tmpHalf00").write_text("half")  # as a killed writer leaves it
    (tmp_path / "notes.tmp").write_text("mine")
    train(tmp_path)
    assert not (tmp_path / LOCK).exists() and not (tmp_path / ".tmpHalf00").exists()
    assert (tmp_path / "notes.tmp").read_text() == "mine"
