from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tapertune.errors import TapertuneError
from tapertune.runfile.arguments import check_training, training_defaults


def test_what_is_used_unsaid_is_itself_right() -> None:
    assert check_training(training_defaults()) == training_defaults()


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"max_steps": 0}, "training.max_steps is 0; it must be 1 or more, or -1 for whole epochs"),
        ({"max_steps": -2}, "training.max_steps is -2; it must be -1 or more"),
        ({"num_train_epochs": 0}, "training.num_train_epochs is 0; it must be more than 0"),
        ({"learning_rate": -1e-3}, "training.learning_rate is -0.001; it must be a number above 0, or auto"),
        ({"learning_rate": 100}, "training.learning_rate is 100; it must be a number above 0 and below 100, or auto"),
        (
            {"learning_rate": 1e6},
            "training.learning_rate is 1000000.0; it must be a number above 0 and below 100, or auto",
        ),
        ({"learning_rate": 0}, "training.learning_rate is 0; it must be a number above 0, or auto"),
        ({"learning_rate": math.nan}, "training.learning_rate is nan; it must be a number above 0, or auto"),
        ({"learning_rate": math.inf}, "training.learning_rate is inf; it must be a number above 0, or auto"),
        ({"weight_decay": math.nan}, "training.weight_decay is nan; it must be a number"),
        ({"num_train_epochs": math.inf}, "training.num_train_epochs is inf; it must be a number"),
        ({"per_device_train_batch_size": 0}, "training.per_device_train_batch_size is 0; it must be 1 or more"),
        ({"gradient_accumulation_steps": 0}, "training.gradient_accumulation_steps is 0; it must be 1 or more"),
        ({"warmup_steps": -1}, "training.warmup_steps is -1; it must be 0 or more"),
    ],
)
def test_values_that_cannot_be(training: dict[str, Any], message: str) -> None:
    with pytest.raises(TapertuneError) as caught:
        check_training(training)
    assert str(caught.value) == message


def test_gradients_may_be_left_uncut() -> None:
    assert check_training({"max_grad_norm": math.inf}) == {"max_grad_norm": math.inf}


@pytest.mark.parametrize("rate", [100.0, math.inf, 0.0, -1.0])
def test_rates_of_the_head(rate: float) -> None:
    from tapertune.runfile.settings import check_settings

    with pytest.raises(TapertuneError, match=r"head.learning_rate is .*; it must be"):
        check_settings({"model": "minilm", "task": "qnli", "method": "lora", "head": {"learning_rate": rate}})


@pytest.mark.parametrize("rate", [100.0, math.inf, math.nan])
def test_rates_in_python(rate: float, caplog: pytest.LogCaptureFixture) -> None:
    import torch
    from peft import get_peft_model
    from tiny import mlp

    import tapertune

    model = get_peft_model(mlp(), tapertune.make_config("lora", r=2, target_modules=["0"]))
    with pytest.raises(TapertuneError, match="learning_rate is"):
        tapertune.parameter_groups(model, rate)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    optimizer.param_groups[0]["lr"] = rate
    with pytest.raises(TapertuneError, match=r"lr of the optimizer is .*; it must be a number below 100"):
        tapertune.attach(model, optimizer, total_steps=10)
    optimizer.param_groups[0]["lr"] = 0.0  # as a schedule may begin
    tapertune.attach(model, optimizer, total_steps=10)
    assert "lr of the optimizer is 0.0" in caplog.text
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)  # which multiplies it
    with pytest.raises(TapertuneError, match=r"lr of the optimizer is 0\.0; it must be above 0"):
        tapertune.attach(model, optimizer, total_steps=10)


def test_an_endless_number_is_resumed_from_a_record() -> None:
    """``run.json`` holds the settings, and JSON no infinity."""
    from tapertune.runfile.settings import check_settings

    raw = {"model": "minilm", "task": {"name": "sst2", "data": "sample"}, "method": "lora"}
    settings = check_settings({**raw, "training": {"max_grad_norm": math.inf}}).resolved()
    kept = json.loads(json.dumps(settings, allow_nan=False))
    assert kept["training"]["max_grad_norm"] > 1e300
    assert check_settings(kept).resolved() == settings
