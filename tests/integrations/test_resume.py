"""Stopped and resumed is the same run, bit for bit: every row of METHODS with its default settings, under Trainer and
in a plain loop, in a new process's objects and in the same ones."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny import Rows, batch, tiny_bert
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import tapertune
from tapertune.events import EventLog, read_events
from tapertune.integrations import restore, save_state
from tapertune.methods import METHODS

TOTAL = 40  # every method's default plan decides several times in these
DECIDING = {"aflora": "freeze", "adalora": "prune", "lora2": "prune"}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def adapted(method: str) -> PeftModel:
    base = tiny_bert()
    torch.manual_seed(1)
    return get_peft_model(base, tapertune.make_config(method, modules_to_save=["classifier"]))


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def assert_same_state(one: Any, other: Any) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first["json"] == second["json"]
    assert_same(first["tensors"], second["tensors"])


# ---- Trainer ---------------------------------------------------------------------------------------------------------


class Stop(TrainerCallback):
    """Ends training as a crash would: no later hook runs."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise RuntimeError("stopped")


def trainer(method: str, folder: Path) -> Trainer:
    arguments = TrainingArguments(
        str(folder), max_steps=TOTAL, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=5, save_steps=10,
        report_to="none", use_cpu=True, disable_tqdm=True, seed=3,
    )  # fmt: skip
    return Trainer(adapted(method), arguments, train_dataset=Rows(), callbacks=[tapertune.TapertuneCallback()])


def controller(run: Trainer) -> Any:
    return next(c for c in run.callback_handler.callbacks if isinstance(c, tapertune.TapertuneCallback)).controller


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A method's run that is not stopped, and its folder."""
    runs: dict[str, tuple[Trainer, Path]] = {}

    def get(method: str) -> tuple[Trainer, Path]:
        if method not in runs:
            folder = tmp_path_factory.mktemp(method)
            runs[method] = trainer(method, folder), folder
            runs[method][0].train()
        return runs[method]

    return get


@pytest.mark.parametrize(("objects", "stop"), [("new", 12), ("new", 37), ("same", 37)])
def test_under_trainer(method: str, stop: int, objects: str, whole: Any, tmp_path: Path) -> None:
    expected, folder = whole(method)
    cut = trainer(method, tmp_path)
    stopper = Stop(stop)
    cut.add_callback(stopper)
    with pytest.raises(RuntimeError, match="stopped"):
        cut.train()
    cut.remove_callback(stopper)
    # a notebook goes on with the objects that it has, some of them frozen and pruned further than the checkpoint
    again = cut if objects == "same" else trainer(method, tmp_path)
    again.train(resume_from_checkpoint=True)
    assert_same(weights(expected.model), weights(again.model))
    assert_same_state(controller(expected), controller(again))
    assert (tmp_path / "events.jsonl").read_bytes() == (folder / "events.jsonl").read_bytes()
    config = "adapter_config.json"
    assert (tmp_path / f"checkpoint-{TOTAL}" / config).read_bytes() == (
        folder / f"checkpoint-{TOTAL}" / config
    ).read_bytes()
    types = [event["type"] for event in read_events(folder / "events.jsonl")]
    assert types.count("start") == 1 and types[-1] == "end"
    assert method not in DECIDING or DECIDING[method] in types


# ---- a plain loop ----------------------------------------------------------------------------------------------------


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, which: range) -> None:
    for t in which:
        optimizer.zero_grad()
        model(**batch(seed=t)).loss.backward()
        optimizer.step()


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


def run(method: str, log: Path) -> tuple[PeftModel, torch.optim.Optimizer, Any]:
    model = adapted(method)
    optimizer = adamw(model)
    made = tapertune.attach(model, optimizer, total_steps=TOTAL, events=EventLog(log))
    return model, optimizer, made


@pytest.mark.parametrize(
    ("load", "stop"), [("state dict", 0), ("state dict", 14), ("state dict", 36), ("from_pretrained", 36)]
)
def test_in_a_plain_loop(method: str, load: str, stop: int, tmp_path: Path) -> None:
    model, optimizer, expected = run(method, tmp_path / "whole.jsonl")
    steps(model, optimizer, range(TOTAL))
    expected.finish()

    first, first_optimizer, stopped = run(method, tmp_path / "cut.jsonl")
    steps(first, first_optimizer, range(stop))
    save_state(stopped, tmp_path)
    first.save_pretrained(tmp_path / "adapter")
    saved = copy.deepcopy((first.state_dict(), first_optimizer.state_dict()))
    steps(first, first_optimizer, range(stop, min(stop + 2, TOTAL)))  # work that the interruption loses

    if load == "state dict":
        second = adapted(method)
        second.load_state_dict(saved[0])
    else:
        second = PeftModel.from_pretrained(tiny_bert(), tmp_path / "adapter", is_trainable=True)
    second_optimizer = adamw(second)  # of what trains in this model, which may be less than when the run began
    resumed = tapertune.attach(second, second_optimizer, total_steps=TOTAL, events=EventLog(tmp_path / "cut.jsonl"))
    restore(resumed, tmp_path)
    second_optimizer.load_state_dict(saved[1])
    steps(second, second_optimizer, range(stop, TOTAL))
    resumed.finish()
    assert_same(weights(model), weights(second))
    assert resumed.frozen == expected.frozen and resumed.ranks == expected.ranks
    assert resumed.summary() == expected.summary()
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    files = []
    for name, one in (("a", model), ("b", second)):
        one.save_pretrained(tmp_path / name)
        files.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert model.peft_config["default"].frozen == second.peft_config["default"].frozen


def test_what_differs_is_named_field_by_field() -> None:
    saved = run_state({"schedule": {"warmup": 4, "cooldown": 8}})
    for plan, message in (
        ({"schedule": {"warmup": 3, "cooldown": 8}}, r"had plan.schedule.warmup 4, this one has 3; they must be equal"),
        ({"schedule": {"warmup": 4, "cooldown": 0.2}}, r"had plan.schedule.cooldown 8, this one has 0.2"),
        (
            {"schedule": {"warmup": 4, "cooldown": 8}, "final_update": False},
            "plan.final_update True, this one has False",
        ),
    ):
        model = adapted("aflora")
        other = tapertune.attach(model, adamw(model), total_steps=TOTAL, plan=plan)
        with pytest.raises(tapertune.TapertuneError, match=message):
            other.load_state_dict(saved)


def test_one_step_is_not_the_whole_run() -> None:
    saved = run_state({"schedule": {"warmup": 0, "cooldown": 1}})
    model = adapted("aflora")
    other = tapertune.attach(
        model, adamw(model), total_steps=TOTAL, plan={"schedule": {"warmup": 0, "cooldown": 0.025}}
    )
    with pytest.raises(tapertune.TapertuneError, match=r"plan\.schedule\.cooldown 1, this one has 0\.025"):
        other.load_state_dict(saved)


def run_state(plan: dict[str, Any]) -> dict[str, Any]:
    model = adapted("aflora")
    return tapertune.attach(model, adamw(model), total_steps=TOTAL, plan=plan).state_dict()


def test_states_of_earlier_versions_are_read() -> None:
    """Without the fields that say what trained when the run began."""
    model, optimizer, made = run("aflora", Path("unused.jsonl"))
    made.journal.sink = None
    steps(model, optimizer, range(30))
    assert made.frozen
    state = made.state_dict()
    for key in ("started", "has_gradients", "optimizer"):
        del state["json"][key]
    second = adapted("aflora")
    second.load_state_dict(model.state_dict())
    second_optimizer = adamw(second)
    second_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed = tapertune.attach(second, second_optimizer, total_steps=TOTAL)
    resumed.load_state_dict(state)
    for one, other in ((model, optimizer), (second, second_optimizer)):
        steps(one, other, range(30, TOTAL))
    assert_same(weights(model), weights(second))
