"""What a tracker is given: one that stands where Trainer puts its own, before callbacks that a user adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import Rows, tiny_bert
from transformers import Trainer, TrainerCallback, TrainingArguments

import tapertune
from tapertune.methods import METHODS


class Tracker(TrainerCallback):
    """Keeps what it is given at each log, as TensorBoard's callback would write it."""

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.given.append(dict(kwargs["logs"]))


def train(folder: Path, method: str, tracker: TrainerCallback | None, **values: Any) -> Trainer:
    base = tiny_bert()
    torch.manual_seed(1)
    model = get_peft_model(base, tapertune.make_config(method, modules_to_save=["classifier"]))
    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 12, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True, **values,
    }  # fmt: skip
    ramp = method in ("aflora", "adalora", "lora2")
    ours = tapertune.TapertuneCallback({"schedule": {"warmup": 2, "cooldown": 4, "every": 1}} if ramp else None)
    callbacks = [*([tracker] if tracker else []), ours]
    trainer = Trainer(model, TrainingArguments(**settings), train_dataset=Rows(), callbacks=callbacks)
    trainer.train()
    return trainer


@pytest.mark.parametrize("method", METHODS)
def test_a_tracker_sees_what_trains(tmp_path: Path, method: str) -> None:
    tracker = Tracker()
    trainer = train(tmp_path, method, tracker)
    logs = [given for given in tracker.given if "loss" in given]
    assert len(logs) == 12
    if not tapertune.make_config(method).resolved_plans():
        assert not any(key.startswith("tapertune/") for given in logs for key in given)
        return
    trained = [given["tapertune/trainable"] for given in logs]
    assert all(isinstance(value, int | float) for given in logs for value in given.values())
    if method == "aflora":
        assert trained[0] > trained[-1] and logs[-1]["tapertune/frozen"] > logs[0]["tapertune/frozen"] == 0
    if method in ("adalora", "lora2"):
        totals = [given["tapertune/rank_total"] for given in logs]
        assert totals[0] > totals[-1] and totals == sorted(totals, reverse=True)
        each = [key for key in logs[0] if key.startswith("tapertune/rank/")]
        assert each and all(len([k for k in given if k.startswith("tapertune/rank/")]) <= len(each) for given in logs)
    callbacks = trainer.callback_handler.callbacks
    assert not any(type(one).__name__ == "Tracked" for one in callbacks), "nothing is left behind"


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_has_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tb"))
    train(tmp_path, "adalora", None, report_to="tensorboard")
    written = EventAccumulator(str(tmp_path / "tb")).Reload()
    values = [event.value for event in written.Scalars("train/tapertune/rank_total")]
    assert values[0] > values[-1]
