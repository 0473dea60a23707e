"""The controller's state is beside the weights, wherever Trainer writes them; and it is found again."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import Rows, tiny_bert
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import HPSearchBackend

import tapertune
from tapertune.errors import TapertuneError
from tapertune.integrations.state import STATE_FILE
from tapertune.methods import METHODS

FREEZING = {"schedule": {"warmup": 1, "cooldown": 4, "every": 1}}


def fresh(method: str = "aflora") -> Any:
    base = tiny_bert()
    torch.manual_seed(1)
    return get_peft_model(base, tapertune.make_config(method, modules_to_save=["classifier"]))


class Elsewhere(Trainer):
    """Writes its checkpoints into a folder of its own."""

    home = "own"

    def _get_output_dir(self, trial: Any) -> str:
        return str(Path(self.args.output_dir) / self.home)


def trainer(
    folder: Path, kind: type[Trainer] = Elsewhere, method: str = "aflora", callback: Any = None, **values: Any
) -> Trainer:
    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "logging_steps": 1, "save_steps": 2, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "seed": 3,
        **values,
    }  # fmt: skip
    plan = FREEZING if method == "aflora" else None
    callback = callback or tapertune.TapertuneCallback(plan)
    args = TrainingArguments(**settings)
    return kind(args=args, model=fresh(method), train_dataset=Rows(), callbacks=[callback])


class StopAfter(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            raise RuntimeError("stopped")


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("checkpoint-*"))


@pytest.mark.parametrize("method", METHODS)
def test_a_folder_of_ones_own(method: str, tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", method=method)
    whole.train()
    assert checkpoints(tmp_path / "whole") == ["own/checkpoint-2", "own/checkpoint-4", "own/checkpoint-6"]
    for name in checkpoints(tmp_path / "whole"):
        assert (tmp_path / "whole" / name / STATE_FILE).is_file()
    cut = trainer(tmp_path / "cut", method=method)
    cut.add_callback(StopAfter())
    with pytest.raises(RuntimeError, match="stopped"):
        cut.train()
    resumed = trainer(tmp_path / "cut", method=method)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut/own/checkpoint-4"))
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_runs_of_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.hp_params", dict)  # which asks optuna's trials for their values

    class Trial(dict):
        """The values of a trial, with its number."""

        number = 0

    class Searching(Trainer):
        """Trainer in the midst of a search, without the package that proposes values."""

        def _hp_search_setup(self, trial: Any) -> None:
            self.args.learning_rate = trial["learning_rate"]

    callback = tapertune.TapertuneCallback(FREEZING)
    frozen = []
    for number in range(2):
        search = trainer(tmp_path, Searching, callback=callback)
        search.hp_search_backend = HPSearchBackend.OPTUNA
        trial = Trial(learning_rate=1e-2)
        trial.number = number
        search.train(trial=trial)
        frozen.append(len(callback.controller.frozen))
    assert checkpoints(tmp_path) == [f"run-{run}/checkpoint-{step}" for run in (0, 1) for step in (2, 4, 6)]
    assert all((tmp_path / name / STATE_FILE).is_file() for name in checkpoints(tmp_path))
    assert min(frozen) > 0


def test_outside_of_the_output_folder(tmp_path: Path) -> None:
    class Outside(Elsewhere):
        home = "../outside"

    trainer(tmp_path / "run", Outside).train()
    folder = tmp_path / "outside/checkpoint-4"
    assert (folder / STATE_FILE).is_file()
    with pytest.raises(TapertuneError, match=r"step 4, but .*checkpoint-4 does not exist; pass .*resume_from"):
        trainer(tmp_path / "run", Outside).train(resume_from_checkpoint=str(folder))
    callback = tapertune.TapertuneCallback(FREEZING, resume_from=folder)
    trainer(tmp_path / "run", Outside, callback=callback).train(resume_from_checkpoint=str(folder))
    assert callback.controller is not None and callback.controller.step == 6


def test_another_runs_checkpoint_of_that_number_is_not_taken(tmp_path: Path) -> None:
    trainer(tmp_path / "first", Trainer).train()
    shutil.copytree(tmp_path / "first/checkpoint-4", tmp_path / "second/kept/checkpoint-4")
    trainer(tmp_path / "second", Trainer, learning_rate=3e-2).train()
    callback = tapertune.TapertuneCallback(FREEZING)
    resumed = trainer(tmp_path / "second", Trainer, callback=callback)
    resumed.train(resume_from_checkpoint=str(tmp_path / "second/kept/checkpoint-4"))
    whole = trainer(tmp_path / "third", Trainer)
    whole.train()
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    shutil.rmtree(tmp_path / "second/kept")
    with pytest.raises(TapertuneError, match=r"second.checkpoint-4 is of another run; pass"):
        trainer(tmp_path / "second", Trainer).train(resume_from_checkpoint=str(tmp_path / "first/checkpoint-4"))


def test_a_trainer_that_saves_in_its_own_way(tmp_path: Path) -> None:
    class Own(Trainer):
        where = "checkpoint-{}"

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            self.save_model(str(Path(self.args.output_dir) / self.where.format(self.state.global_step)))

    trainer(tmp_path / "usual", Own).train()
    assert all((tmp_path / "usual" / name / STATE_FILE).is_file() for name in checkpoints(tmp_path / "usual"))

    class Elsewise(Own):
        where = "step-{}"

    run = trainer(tmp_path / "unusual", Elsewise)
    with pytest.warns(UserWarning, match=f"the checkpoint of step . has no {STATE_FILE}"):
        run.train()


def test_trainers_state_stays_its_own(tmp_path: Path) -> None:
    copies: list[TrainerState] = []

    class Copy(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            copies.extend([copy.copy(state), copy.deepcopy(state), pickle.loads(pickle.dumps(state))])

    run = trainer(tmp_path, Trainer)
    run.add_callback(Copy())
    run.train()
    assert type(run.state) is TrainerState and "_callback" not in vars(run.state)
    saved = json.loads((tmp_path / "checkpoint-6/trainer_state.json").read_text())
    assert saved["global_step"] == 6 and "_callback" not in saved
    (tmp_path / "checkpoint-2" / STATE_FILE).unlink()
    for state in copies[:3]:
        state.save_to_json(str(tmp_path / "checkpoint-2/trainer_state.json"))
    assert not (tmp_path / "checkpoint-2" / STATE_FILE).exists()
