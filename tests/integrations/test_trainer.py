"""The controller under transformers' Trainer."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from adapt.stepping import inside_backward
from peft import get_peft_model
from tiny import Rows, tiny_bert
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import tapertune
from tapertune.errors import TapertuneError
from tapertune.events import read_events

PLAN = {"schedule": {"warmup": 3, "cooldown": 6, "every": 1}}


def trainer(folder: Path, callback: TrainerCallback | None = None, method: str = "aflora", **values: Any) -> Trainer:
    base = tiny_bert()
    torch.manual_seed(1)
    extra = {"projection_scope": "all"} if method == "aflora" else {}
    row = tapertune.METHODS[method]
    config = tapertune.make_config(method, **{row.rank: 2}, modules_to_save=["classifier"], **extra)
    model = get_peft_model(base, config)
    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 16, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "logging_steps": 1, "save_steps": 4, "eval_strategy": "steps", "eval_steps": 8, "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "seed": 3, **values,
    }  # fmt: skip
    args = TrainingArguments(**settings)
    callback = callback or tapertune.TapertuneCallback(PLAN)
    return Trainer(model, args, train_dataset=Rows(), eval_dataset=Rows(8), callbacks=[callback])


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


class StopAfter(TrainerCallback):
    """Ends training as a crash would: no later hook runs."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise RuntimeError("stopped")


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("stop", [5, 10, 15])
def test_stopped_and_resumed_is_the_same_run(tmp_path: Path, stop: int, accumulation: int) -> None:
    values = {"gradient_accumulation_steps": accumulation}
    whole = trainer(tmp_path / "whole", **values)
    whole.train()
    cut = trainer(tmp_path / "cut", **values)
    cut.add_callback(StopAfter(stop))
    with pytest.raises(RuntimeError, match="stopped"):
        cut.train()
    resumed = trainer(tmp_path / "cut", **values)
    resumed.train(resume_from_checkpoint=True)
    expected = weights(whole.model)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed.model).items())
    assert (tmp_path / "cut/events.jsonl").read_bytes() == (tmp_path / "whole/events.jsonl").read_bytes()
    events = read_events(tmp_path / "cut/events.jsonl")
    assert [e["type"] for e in events].count("loss") == 16
    assert sum(len(e["names"]) for e in events if e["type"] == "freeze") == 24
    last = json.loads((tmp_path / "cut/checkpoint-16/adapter_config.json").read_text())
    assert sum(map(len, last["frozen"].values())) == 24


def test_resume_from_a_folder_elsewhere(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.train()
    moved = tmp_path / "elsewhere"
    (tmp_path / "whole/checkpoint-8").rename(moved)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/events.jsonl").write_bytes((tmp_path / "whole/events.jsonl").read_bytes())
    lost = trainer(tmp_path / "new")
    with pytest.raises(tapertune.TapertuneError, match=r"resumes at step 8, but .*checkpoint-8 does not exist"):
        lost.train(resume_from_checkpoint=str(moved))
    again = trainer(tmp_path / "new", tapertune.TapertuneCallback(PLAN, resume_from=moved))
    again.train(resume_from_checkpoint=str(moved))
    expected = weights(whole.model)
    assert all(torch.equal(value, expected[name]) for name, value in weights(again.model).items())


def test_best_model_is_loaded_after_freezing(tmp_path: Path) -> None:
    run = trainer(tmp_path, load_best_model_at_end=True, metric_for_best_model="eval_loss", save_steps=8, eval_steps=8)
    run.train()
    assert run.state.best_model_checkpoint
    logits = run.predict(Rows(8)).predictions
    assert logits.shape == (8, 2)


@pytest.mark.filterwarnings("ignore:.*whose plan nobody runs:UserWarning")
def test_a_controller_that_is_never_stepped_warns(tmp_path: Path) -> None:
    class Wrong(tapertune.TapertuneCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            kwargs["optimizer"] = torch.optim.SGD(kwargs["model"].parameters())
            super().on_train_begin(args, state, control, **kwargs)

    run = trainer(tmp_path, Wrong(PLAN))
    with pytest.warns(UserWarning, match="has not seen one"):
        run.train()


class Copying(tapertune.TapertuneCallback):
    """Is given what DeepSpeed's stages 1 and 2 give: an optimizer of flat copies, which steps more than once a step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        flat = nn.Parameter(torch.cat([p.detach().flatten() for p in kwargs["model"].parameters() if p.requires_grad]))
        super().on_train_begin(args, state, control, **{**kwargs, "optimizer": torch.optim.SGD([flat])})


def test_a_plan_over_copies_of_the_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TapertuneError, match=r"the optimizer \(SGD\) steps on none of the adapter's parameters, so"):
        trainer(tmp_path, Copying(PLAN)).train()


def test_without_a_plan_the_steps_over_copies_are_counted(tmp_path: Path) -> None:
    callback = Copying()
    run = trainer(tmp_path, callback, method="elora")
    run.train()
    assert callback.controller is not None
    summary = callback.controller.summary()
    assert summary["steps"] == run.state.global_step == 16
    assert summary["trainable_average"] == summary["trainable_end"] > 0


def test_counts_and_progress(tmp_path: Path) -> None:
    callback = tapertune.TapertuneCallback(PLAN)
    assert callback.controller is None
    run = trainer(tmp_path, callback)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        run.train()
    assert callback.controller is not None
    summary = callback.controller.summary()
    assert summary["steps"] == 16 and summary["frozen"] == summary["freezable"] == 24
    assert summary["trainable_start"] > summary["trainable_average"] > summary["trainable_end"]
    assert summary["trainable_end"] == sum(p.numel() for p in run.model.parameters() if p.requires_grad)


def test_plan_longer_than_the_run_stops_before_training(tmp_path: Path) -> None:
    run = trainer(tmp_path, tapertune.TapertuneCallback({"schedule": {"warmup": 20}}))
    with pytest.raises(tapertune.TapertuneError, match="16 steps"):
        run.train()
    assert not (tmp_path / "events.jsonl").exists()


class Given(tapertune.TapertuneCallback):
    """Is given an optimizer that Trainer does not step, as where Accelerate leaves LOMO's step out."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs["optimizer"] = torch.optim.SGD([p for p in kwargs["model"].parameters() if p.requires_grad])
        super().on_train_begin(args, state, control, **kwargs)


@pytest.mark.filterwarnings("ignore:.*its controller was given another optimizer:UserWarning")
@pytest.mark.parametrize("callback", [tapertune.TapertuneCallback, Given])
@pytest.mark.parametrize("method", ["aflora", "adalora", "lora2"])
def test_an_optimizer_that_steps_inside_backward_is_refused(tmp_path: Path, method: str, callback: Any) -> None:
    run = trainer(tmp_path, callback({"schedule": {"warmup": 3, "cooldown": 6, "every": 1}}), method)
    dummy = inside_backward([p for p in run.model.parameters() if p.requires_grad])
    run.optimizer = dummy
    with pytest.raises(TapertuneError, match=r"no factor of adapter 'default' had a gradient") as caught:
        run.train()
    assert "\n" not in str(caught.value)


def test_one_under_a_method_without_a_plan_trains(tmp_path: Path) -> None:
    run = trainer(tmp_path, tapertune.TapertuneCallback(), method="elora")
    before = weights(run.model)
    run.optimizer = inside_backward([p for p in run.model.parameters() if p.requires_grad])
    run.train()
    assert any(not torch.equal(before[name], value) for name, value in weights(run.model).items())
