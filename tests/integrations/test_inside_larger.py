"""Somebody's own module around an encoder trains, stops and resumes as the encoder alone does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import Rows, batch, tiny_bert
from torch import nn
from transformers import Trainer, TrainingArguments

import tapertune
from tapertune.events import read_events
from tapertune.methods import METHODS


class Headed(nn.Module):
    """An encoder two modules deep, as in a SentenceTransformer, and a head beside it."""

    def __init__(self, method: str, in_place: bool) -> None:
        super().__init__()
        encoder, config = tiny_bert().bert, tapertune.make_config(method)
        torch.manual_seed(1)
        if in_place:
            encoder.add_adapter(config)
        else:
            encoder = get_peft_model(encoder, config)
        self.parts = nn.Sequential(nn.ModuleDict({"auto_model": encoder}))
        self.head = nn.Linear(16, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        encoder: Any = self.parts[0]["auto_model"]  # type: ignore[index]
        logits = self.head(encoder(input_ids=input_ids, attention_mask=attention_mask)[0][:, 0])
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def trainer(folder: Path, method: str, in_place: bool, callback: Any = None) -> Trainer:
    args = TrainingArguments(
        output_dir=str(folder), max_steps=10, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1,
        save_steps=5, report_to="none", use_cpu=True, disable_tqdm=True, seed=3,
    )  # fmt: skip
    callbacks = [callback or tapertune.TapertuneCallback()]
    return Trainer(model=Headed(method, in_place), args=args, train_dataset=Rows(), callbacks=callbacks)


@pytest.mark.parametrize("in_place", [False, True], ids=["PeftModel", "add_adapter"])
@pytest.mark.parametrize("method", METHODS)
def test_trainer(method: str, in_place: bool, tmp_path: Path) -> None:
    callback = tapertune.TapertuneCallback()
    whole = trainer(tmp_path, method, in_place, callback)
    whole.train()
    assert callback.controller is not None
    summary = callback.controller.summary()
    assert summary["steps"] == 10 and summary["other_trainable"] == 16 * 2 + 2
    events = read_events(tmp_path / "events.jsonl")
    assert events[0]["type"] == "start" and events[0]["other_trainable"] == 34
    assert events[0]["factors"][0]["name"] == "encoder.layer.0.attention.self.query.A"
    resumed = trainer(tmp_path, method, in_place)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_plain_loop(method: str) -> None:
    model = Headed(method, in_place=False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    controller = tapertune.attach(model, optimizer, total_steps=6)
    for step in range(6):
        optimizer.zero_grad()
        model(**batch(seed=step))["loss"].backward()
        optimizer.step()
    controller.finish()
    assert controller.step == 6
    assert controller.trainable == 34 + sum(
        handle.parameter.numel() for handle in controller.handles.values() if handle.parameter.requires_grad
    )
