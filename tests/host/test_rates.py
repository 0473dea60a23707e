"""Factors with learning rates of their own: as groups, and under optimizers that know nothing of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import batch, mlp, tiny_bert
from torch import nn
from transformers import Trainer, TrainingArguments

import tapertune
from tapertune.errors import TapertuneError
from tapertune.host import adapter_parameters
from tapertune.methods import METHODS

RATE = 1e-3


def adapted(name: str, factor_rates: dict[str, float] | None = None) -> Any:
    torch.manual_seed(1)
    values = {METHODS[name].rank: 3, "target_modules": ["0", "2"], "init_weights": False, "factor_rates": factor_rates}
    return get_peft_model(mlp(), tapertune.make_config(name, **values))


def learning(name: str) -> str:
    """A factor of the method that learns."""
    row = METHODS[name]
    settings = row.settings()
    return next(factor for factor in row.chain(settings).names if row.trains(settings, factor, "other"))


def moves(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """How far each factor goes in a step of Adam, which is the rate where its gradient is large."""
    before = {h.name: (h.factor, h.parameter.detach().clone()) for h in adapter_parameters(model)}
    (1e4 * model(torch.linspace(-1, 1, 30).view(5, 6)).pow(2).sum()).backward()
    optimizer.step()
    found: dict[str, float] = {}
    for handle in adapter_parameters(model):
        factor, old = before[handle.name]
        found[factor] = max(found.get(factor, 0.0), float((handle.parameter.detach() - old).abs().max()))
    return found


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("name", METHODS)
def test_a_factor_learns_at_its_own_rate_in_a_plain_loop(name: str) -> None:
    factor = learning(name)
    model = adapted(name, {factor: 16.0})
    optimizer = torch.optim.Adam(trained(model), lr=RATE)
    groups = [dict(group) for group in optimizer.param_groups]
    plan = {"schedule": {"kind": "constant", "value": 1.0}} if name == "adalora" or name == "lora2" else None
    controller = tapertune.attach(model, optimizer, total_steps=100, plan=plan)
    found = moves(model, optimizer)
    assert found.pop(factor) == pytest.approx(16 * RATE, rel=0.1)
    assert all(move == pytest.approx(RATE, rel=0.4) for move in found.values() if move)  # SoRA shrinks its gates too
    assert [dict(group) for group in optimizer.param_groups] == groups  # outside of steps they are as they were
    controller.detach()
    assert moves(model, optimizer)[factor] < 3 * RATE


@pytest.mark.parametrize("name", METHODS)
def test_groups_for_an_optimizer_of_ones_own(name: str) -> None:
    factor = learning(name)
    model = adapted(name)
    groups = tapertune.parameter_groups(model, RATE, weight_decay=0.1, factor_rates={factor: 16.0})
    assert [group["lr"] for group in groups if group["lr_ratio"] == 16] == [16 * RATE]
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(map(id, trained(model)))
    mine = {id(h.parameter) for h in adapter_parameters(model) if h.factor == factor and h.parameter.requires_grad}
    assert {id(p) for group in groups if group["lr_ratio"] == 16 for p in group["params"]} == mine
    optimizer = torch.optim.Adam(groups)
    tapertune.attach(model, optimizer, total_steps=100)
    assert moves(model, optimizer)[factor] == pytest.approx(16 * RATE, rel=0.1)  # once, not twice


def test_a_step_that_fails_leaves_the_groups_whole() -> None:
    class Failing(torch.optim.SGD):
        fails = True

        def step(self, closure: Any = None) -> Any:
            if self.fails:
                raise RuntimeError("no")
            return super().step(closure)

    model = adapted("lora", {"B": 4.0})
    optimizer = Failing(trained(model), lr=RATE)
    controller = tapertune.attach(model, optimizer, total_steps=10)
    with pytest.raises(RuntimeError, match="no"):
        moves(model, optimizer)
    optimizer.fails = False
    moves(model, optimizer)
    assert len(optimizer.param_groups) == 1 and optimizer.param_groups[0]["lr"] == RATE
    controller.finish()


def test_a_gates_threshold_follows_the_gates_rate() -> None:
    gates = {}
    for ratio in (1.0, 8.0):
        model = adapted("sora", {"g": ratio})
        optimizer = torch.optim.SGD(trained(model), lr=0.0)
        optimizer.param_groups[0]["lr"] = 0.01
        for parameter in trained(model):
            parameter.grad = torch.zeros_like(parameter)
        tapertune.attach(model, optimizer, total_steps=10, plan={"policy": {"times_lr": True, "threshold": 1.0}})
        before = [h.parameter.detach().clone() for h in adapter_parameters(model) if h.factor == "g"]
        optimizer.step()
        after = [h.parameter for h in adapter_parameters(model) if h.factor == "g"]
        gates[ratio] = max(float((a.detach() - b).abs().max()) for a, b in zip(after, before, strict=True))
    assert gates[8.0] == pytest.approx(0.08, rel=0.2) and gates[1.0] == pytest.approx(0.01, rel=0.2)


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        found = batch()
        return {"input_ids": found["input_ids"][0], "labels": torch.tensor(index % 2)}


class Noting(tapertune.TapertuneCallback):
    """Notes the groups that the optimizer steps with."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[set[float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        optimizer.register_step_pre_hook(
            lambda one, a, k: self.rates.append({round(group["lr"], 12) for group in one.param_groups})
        )


def trainer(folder: Path, factor_rates: dict[str, float] | None) -> tuple[Trainer, Noting]:
    torch.manual_seed(0)
    config = tapertune.make_config("elora", r=4, factor_rates=factor_rates, task_type="SEQ_CLS")
    arguments = TrainingArguments(
        str(folder), max_steps=4, save_steps=2, learning_rate=RATE, per_device_train_batch_size=4, use_cpu=True,
        report_to="none", disable_tqdm=True, lr_scheduler_type="constant", logging_steps=1,
    )  # fmt: skip
    callback = Noting()
    model = get_peft_model(tiny_bert(), config)
    return Trainer(model, arguments, train_dataset=Rows(), callbacks=[callback]), callback


def test_trainer_gives_them_their_rates_and_goes_on_from_any_checkpoint(tmp_path: Path) -> None:
    both = {round(RATE, 12), round(0.1 * RATE, 12)}
    own, noted = trainer(tmp_path, {"d": 0.1})
    own.train()
    assert noted.rates == [both] * 4
    plain, noted = trainer(tmp_path, None)  # from a checkpoint of other multiples
    plain.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert noted.rates == [{RATE}] * 2
    again, noted = trainer(tmp_path, {"d": 0.1})
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert noted.rates == [both] * 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"C": 2.0}, "unknown factor in factor_rates 'C'"),
        ({"B": 0}, "factor_rates.B is 0; it must be a positive number"),
        ({"B": "fast"}, "factor_rates.B is 'fast'"),
        ([1, 2], r"factor_rates is \[1, 2\]; it must be multiples of the learning rate by factor \(A, B\)"),
    ],
)
def test_wrong_multiples(given: Any, message: str) -> None:
    with pytest.raises(TapertuneError, match=message):
        tapertune.make_config("lora", factor_rates=given)


def test_wrong_rates_for_groups() -> None:
    with pytest.raises(TapertuneError, match="learning_rate is 0; it must be a positive number"):
        tapertune.parameter_groups(adapted("lora"), 0)
    with pytest.raises(TapertuneError, match="has no adapter 'default'"):
        tapertune.parameter_groups(mlp(), 1e-3)
