"""Trainers of programs that take no callbacks get the one that they lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny import Rows, tiny_bert
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import CallbackHandler

import tapertune
from tapertune.events import read_events
from tapertune.integrations import every_trainer
from tapertune.methods import METHODS

PLANNED = [name for name in METHODS if tapertune.make_config(name).resolved_plans()]


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CallbackHandler, "on_train_begin", CallbackHandler.on_train_begin)  # put back afterwards
    every_trainer.add_to_every_trainer()
    every_trainer.add_to_every_trainer()


def trainer(folder: Path, model: Any, callbacks: list[Any] | None = None, **others: Any) -> Trainer:
    args = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=2, learning_rate=1e-3, save_strategy="no",
        report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    return Trainer(model, args, train_dataset=Rows(4), callbacks=callbacks, **others)


def adapted(method: str, name: str = "default") -> Any:
    row = METHODS[method]
    return get_peft_model(tiny_bert(), tapertune.make_config(method, **{row.rank: 2}), adapter_name=name)  # type: ignore[arg-type]


def count(run: Trainer) -> int:
    return sum(isinstance(one, tapertune.TapertuneCallback) for one in run.callback_handler.callbacks)


@pytest.mark.parametrize("method", METHODS)
def test_what_lacks_the_callback_gets_it_once(method: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, adapted(method, "mine" if method == "aflora" else "default"))
    run.train()
    run.train()
    assert count(run) == (method in PLANNED)
    if method in PLANNED:
        assert read_events(tmp_path / "events.jsonl")


def test_a_loaded_start_adapter_that_trains(tmp_path: Path) -> None:
    adapted("aflora").save_pretrained(tmp_path / "start")
    run = trainer(tmp_path, PeftModel.from_pretrained(tiny_bert(), str(tmp_path / "start"), is_trainable=True))
    run.train()
    assert count(run) == 1


class Holder:
    """As a SetFit model, which is no module: its trainer's callbacks are given it."""

    def __init__(self, body: Any) -> None:
        self.model_body = body


@pytest.mark.parametrize("own", [True, False])
def test_a_model_that_holds_its_body(own: bool, tmp_path: Path) -> None:
    run = trainer(tmp_path, adapted("sora"), [tapertune.TapertuneCallback()] if own else None)
    run.callback_handler.model = Holder(run.model)
    run.train()
    assert count(run) == 1 and read_events(tmp_path / "events.jsonl")


def test_nothing_is_added_where_a_plan_is_run_already_or_nothing_of_ours_trains(tmp_path: Path) -> None:
    own = trainer(tmp_path / "own", adapted("aflora"), [tapertune.TapertuneCallback(events=None)])
    own.train()
    assert count(own) == 1 and not (tmp_path / "own" / "events.jsonl").exists()
    model = adapted("aflora")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    tapertune.attach(model, optimizer, total_steps=2)
    attached = trainer(tmp_path, model, optimizers=(optimizer, None))
    attached.train()
    plain = trainer(tmp_path, tiny_bert())
    plain.train()
    assert count(attached) == count(plain) == 0
