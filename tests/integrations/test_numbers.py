"""Precision, clipping, accumulation, checkpointing, compilation, smoothing: every row of METHODS trains right under
each, and decides as without it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from entrances import PLANS
from peft import get_peft_model
from tiny import Rows, batch, checkpoint, mlp, tiny_bert
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother

import tapertune
from tapertune.events import EventLog, read_events
from tapertune.methods import METHODS

STEPS, ROWS = 4, 8
Loss = Callable[[Any, dict[str, torch.Tensor]], torch.Tensor]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def adapted(method: str, base: Any = None, **values: Any) -> Any:
    base = tiny_bert() if base is None else base
    torch.manual_seed(1)
    return get_peft_model(base, tapertune.make_config(method, plan=PLANS.get(method), **values))


def plain(model: Any, data: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**data).loss


def train(
    model: Any,
    log: Path,
    *,
    loss: Loss = plain,
    scaler: Any = None,
    spoilt: tuple[int, ...] = (),
    clip: float | None = None,
    forward: Any = None,
    data: Callable[[int], dict[str, torch.Tensor]] = lambda t: batch(ROWS, seed=t),
) -> dict[str, Any]:
    """Trains in a plain loop; returns weights, decisions and the controller."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
    controller = tapertune.attach(model, optimizer, total_steps=STEPS, events=EventLog(log))
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    for place, t in enumerate([*spoilt, *range(STEPS)] if spoilt else range(STEPS)):
        value = loss(model if forward is None else forward, data(t))
        scaler.scale(value * math.inf if place < len(spoilt) else value).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    controller.finish()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    return {"weights": weights, "decisions": decisions(log), "controller": controller}


def decisions(log: Path) -> list[Any]:
    return [event for event in read_events(log) if event["type"] in ("freeze", "prune")]


def assert_same(one: dict[str, Any], other: dict[str, Any], **tolerance: float) -> None:
    exact = [[{**e, "threshold": None} if tolerance else e for e in each["decisions"]] for each in (one, other)]
    assert exact[0] == exact[1]
    assert one["weights"].keys() == other["weights"].keys()
    for name, value in one["weights"].items():
        if tolerance:
            torch.testing.assert_close(value, other["weights"][name], msg=name, **tolerance)
        else:
            assert torch.equal(value, other["weights"][name]), name


def test_a_scaler_and_steps_that_overflow_change_nothing(method: str, log: Path) -> None:
    expected = train(adapted(method), log)
    assert bool(expected["decisions"]) == (method in PLANS)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, backoff_factor=0.5)
    assert_same(train(adapted(method), log, scaler=scaler, spoilt=(7, 7)), expected)


@pytest.mark.parametrize(
    ("dtype", "base", "scaled"),
    [(torch.bfloat16, None, False), (torch.bfloat16, torch.bfloat16, False), (torch.float16, None, True)],
    ids=["bf16 autocast", "bf16 base", "fp16 autocast with a scaler"],
)
def test_half_precision(method: str, dtype: torch.dtype, base: Any, scaled: bool, log: Path) -> None:
    def loss(model: Any, data: Any) -> torch.Tensor:
        with torch.autocast("cpu", dtype=dtype) if base is None else nullcontext():
            return model(**data).loss

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8) if scaled else None
    model = adapted(method, tiny_bert() if base is None else tiny_bert().to(base))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    found = train(model, log, loss=loss, scaler=scaler)
    whole = train(adapted(method), log)
    assert found["controller"].step == STEPS
    state = found["controller"].state_dict()["tensors"]
    assert all(t.dtype != dtype and torch.isfinite(t).all() for t in state.values() if t.is_floating_point())
    assert all(torch.isfinite(value).all() for value in found["weights"].values())
    after = {name: found["weights"][name] for name in before}
    assert any(after[n].shape != v.shape or not torch.equal(after[n], v) for n, v in before.items())
    assert [(e["type"], e["step"]) for e in found["decisions"]] == [(e["type"], e["step"]) for e in whole["decisions"]]


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(method: str, reentrant: bool, log: Path) -> None:
    model = adapted(method).train()
    checkpoint(model.base_model.model, reentrant=reentrant)
    model.enable_input_require_grads()
    assert_same(train(model, log), train(adapted(method).train(), log))


@pytest.mark.parametrize("reentrant", [False, True])
def test_parameters_without_gradient(method: str, reentrant: bool, log: Path) -> None:
    """The second of the two layers takes no part; its factors have no gradient, or one of zeros."""

    def loss(model: Any, data: Any) -> torch.Tensor:
        layers = model.base_model.model
        value = layers[1](layers[0](data["x"])).square().mean()
        return value + 0.0 * layers[2](torch.ones(1, 10)).sum() if reentrant else value

    model = adapted(method, mlp(), target_modules=["0", "2"], init_weights=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    x = torch.linspace(-1, 1, 30).view(5, 6)
    found = train(model, log, loss=loss, data=lambda t: {"x": x + t})
    moved = {name for name, value in found["weights"].items() if not torch.equal(value, before[name])}
    assert any(".0." in name for name in moved) and found["controller"].step == STEPS
    assert all(torch.isfinite(value).all() for value in found["weights"].values())


def test_compiled(method: str, log: Path) -> None:
    def loss(model: Any, data: Any) -> torch.Tensor:
        return model(data["x"]).square().mean()

    def begin() -> Any:
        return adapted(method, mlp(torch.float64), target_modules=["0"], init_weights=False)

    torch.compiler.reset()
    x = torch.linspace(-1, 1, 30, dtype=torch.float64).view(5, 6)
    model = begin()
    forward = torch.compile(model, backend="eager")
    found = train(model, log, loss=loss, forward=forward, data=lambda t: {"x": x + t})
    whole = train(begin(), log, loss=loss, data=lambda t: {"x": x + t})
    assert_same(found, whole, rtol=1e-7, atol=1e-9)


def test_tuple_outputs(method: str, log: Path) -> None:
    found = train(adapted(method), log, loss=lambda model, data: model(**data, return_dict=False)[0])
    assert_same(found, train(adapted(method), log))


# ---- Trainer ---------------------------------------------------------------------------------------------------------


def under_trainer(method: str, folder: Path, **settings: Any) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "per_device_train_batch_size": ROWS, "max_steps": STEPS, "learning_rate": 1e-2, "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential", "save_strategy": "no",
        "report_to": "none", "use_cpu": True, "disable_tqdm": True, "optim": "adamw_torch", **settings,
    }  # fmt: skip
    model = adapted(method)
    callback = tapertune.TapertuneCallback()
    rows = Rows(STEPS * ROWS)
    trainer = Trainer(model, TrainingArguments(str(folder), **chosen), train_dataset=rows, callbacks=[callback])
    trainer.model_accepts_loss_kwargs = False  # Trainer takes it for one that divides by the items of all passes
    trainer.train()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    return {"weights": weights, "decisions": decisions(folder / "events.jsonl"), "controller": callback.controller}


def slices(t: int) -> dict[str, torch.Tensor]:
    return {key: value[t * ROWS : (t + 1) * ROWS] for key, value in batch(STEPS * ROWS).items()}


def test_accumulation_decides_alike(method: str, tmp_path: Path) -> None:
    one, two, eight = (
        under_trainer(method, tmp_path / str(n), per_device_train_batch_size=ROWS // n, gradient_accumulation_steps=n)
        for n in (1, 2, 8)
    )
    for other in (two, eight):
        assert_same(other, one, rtol=1e-3, atol=1e-5)


def test_clipping_is_that_of_a_plain_loop(method: str, tmp_path: Path, log: Path) -> None:
    found = under_trainer(method, tmp_path / "trainer", max_grad_norm=0.05)
    assert_same(found, train(adapted(method), log, clip=0.05, data=slices), rtol=1e-3, atol=1e-5)


def test_label_smoothing_is_that_of_a_plain_loop(method: str, tmp_path: Path, log: Path) -> None:
    smooth = LabelSmoother(epsilon=0.2)
    found = under_trainer(method, tmp_path / "trainer", label_smoothing_factor=0.2)
    other = train(adapted(method), log, loss=lambda model, data: smooth(model(**data), data["labels"]), data=slices)
    assert_same(found, other, rtol=1e-3, atol=1e-5)
