"""A step whose gradients are NaN or infinite is as if it had not been: every row of METHODS, at every entrance."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny import Rows, batch, tiny_bert
from transformers import Trainer, TrainerCallback, TrainingArguments

import tapertune
from tapertune.adapt.finite import Diverged
from tapertune.events import EventLog, read_events
from tapertune.integrations import restore, save_state
from tapertune.methods import METHODS

TOTAL = 12


def adapted(method: str) -> PeftModel:
    base = tiny_bert()
    torch.manual_seed(1)
    plan = {"schedule": {"kind": "cubic", "warmup": 2, "cooldown": 2, "every": 2}} if method == "aflora" else None
    return get_peft_model(base, tapertune.make_config(method, modules_to_save=["classifier"], plan=plan))


def train(model: Any, optimizer: Any, steps: list[int], poison: dict[int, float], where: int = 0) -> None:
    for position, t in enumerate(steps):
        optimizer.zero_grad()
        model(**batch(8, seed=t)).loss.backward()
        if position in poison:
            grads = [p.grad for p in model.parameters() if p.grad is not None and p.grad.numel()]
            grads[where].view(-1)[0] = poison[position]
        optimizer.step()


def begin(method: str, log: Path | None = None, **options: Any) -> tuple[Any, Any, Any]:
    model = adapted(method)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    events = None if log is None else EventLog(log)
    return model, optimizer, tapertune.attach(model, optimizer, total_steps=TOTAL, events=events, **options)


@pytest.mark.parametrize("method", METHODS)
def test_in_a_plain_loop(method: str, tmp_path: Path) -> None:
    model, optimizer, controller = begin(method, tmp_path / "events.jsonl")
    # in the adapter and in the head, once and twice in a row
    train(model, optimizer, [0, 1, 2, 9, 9, 3, 4], {3: math.nan, 4: math.inf})
    train(model, optimizer, [9, 5, 6], {0: -math.inf}, where=-1)
    other, other_optimizer, expected = begin(method)
    train(other, other_optimizer, [0, 1, 2, 3, 4, 5, 6], {})
    for (name, one), (_, two) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(one, two), name
    mine, theirs = controller.state_dict(), expected.state_dict()
    assert mine["json"].pop("finite") == [3, 0] and theirs["json"].pop("finite") == [0, 0]
    assert mine["json"].pop("events") and theirs["json"].pop("events") is None
    assert mine["json"] == theirs["json"]
    assert all(torch.equal(mine["tensors"][key], theirs["tensors"][key]) for key in mine["tensors"])
    moments = [list(each.state_dict()["state"].values()) for each in (optimizer, other_optimizer)]
    for one, two in zip(*moments, strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)
    skips = [event for event in read_events(tmp_path / "events.jsonl") if event["type"] == "skip"]
    assert [(event["step"], event["skipped"]) for event in skips] == [(3, 1), (3, 2), (5, 3)]
    assert skips[0]["first"] in controller.handles and "outside" in skips[2]["first"]


def test_too_many_in_a_row_name_the_last_checkpoint(tmp_path: Path) -> None:
    model, optimizer, controller = begin("aflora", max_skipped_steps=2)
    with pytest.raises(Diverged, match="there is no checkpoint yet"):
        train(model, optimizer, [0, 1, 2, 3], dict.fromkeys((1, 2, 3), math.nan))
    assert all(torch.isfinite(p).all() for p in model.parameters())

    model, optimizer, controller = begin("aflora", max_skipped_steps=2)
    train(model, optimizer, [0, 1, 2], {1: math.nan, 2: math.nan})
    save_state(controller, tmp_path)
    second, second_optimizer, resumed = begin("aflora", max_skipped_steps=2)
    second.load_state_dict(copy.deepcopy(model.state_dict()))
    restore(resumed, tmp_path)  # the row goes on
    with pytest.raises(Diverged, match=rf"for the 3th time in a row .*is 2\); the last checkpoint is {tmp_path}"):
        train(second, second_optimizer, [3], {0: math.nan})


@pytest.mark.parametrize("limit", [-1, 1.5, True, "5"])
def test_a_limit_that_is_no_count_is_refused(limit: Any) -> None:
    with pytest.raises(tapertune.TapertuneError, match="max_skipped_steps is"):
        begin("lora", max_skipped_steps=limit)


class Poison(TrainerCallback):
    """Sets a gradient to NaN at some steps, as it comes out of backward; notes what a step has changed."""

    def __init__(self, model: Any, steps: set[int], value: float) -> None:
        self.step, self.steps, self.before, self.changes = 0, steps, {}, {}
        self.model = model
        next(p for p in model.parameters() if p.requires_grad).register_hook(
            lambda grad: grad * value if self.step in steps else grad
        )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step = state.global_step
        self.before = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.rate = kwargs["lr_scheduler"].last_epoch

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        moved = any(not torch.equal(p, self.before[n]) for n, p in self.model.named_parameters())
        self.changes[self.step] = moved, kwargs["lr_scheduler"].last_epoch - self.rate


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("norm", "accumulate"), [(1.0, 1), (0.0, 2)])
def test_under_trainer(method: str, norm: float, accumulate: int, tmp_path: Path) -> None:
    model = adapted(method)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=6, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1,
        max_grad_norm=norm,
        gradient_accumulation_steps=accumulate, save_strategy="no", report_to="none",
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    poison, callback = Poison(model, {2, 3}, math.nan), tapertune.TapertuneCallback()
    Trainer(model, arguments, train_dataset=Rows(), callbacks=[callback, poison]).train()
    assert poison.changes == {t: ((False, 0) if t in (2, 3) else (True, 1)) for t in range(6)}
    assert callback.controller is not None and callback.controller.finite.skipped == 2
    assert callback.controller.step == 4


def test_under_trainer_too_many_end_the_run(tmp_path: Path) -> None:
    model = adapted("adalora")
    arguments = TrainingArguments(
        str(tmp_path), max_steps=12, save_steps=2, report_to="none", use_cpu=True, disable_tqdm=True
    )
    poison = Poison(model, set(range(3, 12)), math.nan)
    callback = tapertune.TapertuneCallback(max_skipped_steps=3)
    trainer = Trainer(model, arguments, train_dataset=Rows(), callbacks=[callback, poison])
    with pytest.raises(Diverged, match=r"for the 4th time in a row .* the last checkpoint is .*checkpoint-6"):
        trainer.train()


@pytest.mark.parametrize("method", ["aflora", "lora2"])
def test_with_a_scaler_and_accelerate(method: str) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = adapted(method)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (t + 1))
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    tapertune.attach(model, optimizer, total_steps=TOTAL)
    for t in range(4):
        optimizer.zero_grad()
        accelerator.backward(model(**batch(8, seed=t)).loss)
        if t == 1:
            next(p for p in model.parameters() if p.grad is not None).grad.fill_(math.nan)
        optimizer.step()
        schedule.step()
    assert schedule.scheduler.last_epoch == 3

    model, optimizer, controller = begin(method)
    scaler = torch.amp.GradScaler("cpu")
    for t in range(3):
        optimizer.zero_grad()
        scaler.scale(model(**batch(8, seed=t)).loss).backward()
        if t == 1:
            next(p for p in model.parameters() if p.grad is not None).grad.fill_(math.inf)
        scaler.step(optimizer)
        scaler.update()
    assert controller.step == 2 and all(torch.isfinite(p).all() for p in model.parameters())
