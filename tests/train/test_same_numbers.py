"""The same numbers whatever a batch is split into, and whatever ends a run early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from train.tiny_run import raw_settings

from tapertune.errors import TapertuneError
from tapertune.events import read_events
from tapertune.methods import METHODS
from tapertune.runfile.settings import check_settings
from tapertune.train.evaluation import evaluate
from tapertune.train.progress import Display
from tapertune.train.runner import run

ADAPTER = "adapter_model.safetensors"


def settings(root: Path, method: str, name: str, **changes: Any) -> Any:
    raw = raw_settings(
        root, method, output_dir=str(root / name), training__max_steps=4, training__save_strategy="no",
        training__eval_strategy="no", **changes,
    )  # fmt: skip
    raw["training"].pop("save_steps", None)
    raw.pop("plan", None)
    return check_settings(raw)


@pytest.mark.parametrize("method", ["adalora", "full"])
def test_losses_and_norms_do_not_grow_with_the_passes(root: Path, method: str) -> None:
    logs = []
    for passes in (1, 4):
        changes = {
            "training__per_device_train_batch_size": 8 // passes, "training__gradient_accumulation_steps": passes,
            "training__train_sampling_strategy": "random", "task__max_length": 8, "head__dropout": 0.0,
        }  # fmt: skip
        run(settings(root, method, f"run-{passes}", **changes))
        logs.append([e for e in read_events(root / f"run-{passes}" / "events.jsonl") if e["type"] == "loss"])
    for one, four in zip(*logs, strict=True):
        assert four["loss"] == pytest.approx(one["loss"], rel=0.3)  # other masks of dropout
        assert four["grad_norm"] < 2 * one["grad_norm"]


@pytest.mark.parametrize("method", [*METHODS, "full"])
def test_a_run_ends_early_with_its_best_model(root: Path, method: str) -> None:
    raw = raw_settings(root, method, output_dir=str(root / "run"))
    raw.pop("plan", None)
    raw["training"] |= {
        "num_train_epochs": 30, "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True,
        "metric_for_best_model": "accuracy", "learning_rate": 1e-6,
    }  # fmt: skip
    del raw["training"]["save_steps"]
    raw["head"] = {"learning_rate": 1e-6}
    raw["early_stopping"] = {"patience": 2, "threshold": 0.5}
    record = run(check_settings(raw))
    assert record["status"] == "done" and record["steps"] == 15  # the first epoch is the best; two more, and the end
    best = load_file(root / "run" / "checkpoint-5" / ("model.safetensors" if method == "full" else ADAPTER))
    last = load_file(root / "run" / ("model.safetensors" if method == "full" else ADAPTER))
    assert best.keys() == last.keys()
    assert method in ("adalora", "lora2", "sora") or all(torch.equal(best[name], last[name]) for name in best)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({}, "early_stopping needs training.metric_for_best_model"),
        ({"metric_for_best_model": "loss", "eval_strategy": "no"}, "early_stopping needs evaluations"),
    ],
)
def test_early_stopping_without_its_needs_is_refused(root: Path, training: dict[str, Any], message: str) -> None:
    raw = raw_settings(root, "lora", early_stopping={"patience": 2})
    raw["training"] |= training
    with pytest.raises(TapertuneError, match=message):
        run(check_settings(raw))
    assert not (root / "run").exists()


class Poison(Display):
    """A gradient of the second step is NaN as it comes out of backward, in the first parameter that trains."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            parameter = next(p for p in kwargs["model"].parameters() if p.requires_grad)
            handle = parameter.register_hook(lambda grad: (handle.remove(), grad * float("nan"))[1])


@pytest.mark.parametrize("method", [*METHODS, "full", "head"])
def test_a_step_that_is_not_finite_is_counted_and_shown(root: Path, method: str, capsys: Any) -> None:
    record = run(settings(root, method, "run", task__max_length=8), display=Poison())
    assert (record["status"], record["steps"], record["skipped_steps"]) == ("done", 4, 1)
    assert "note: steps left out, as their gradients were not finite: 1" in capsys.readouterr().err
    skips = [event for event in read_events(root / "run" / "events.jsonl") if event["type"] == "skip"]
    assert [(event["step"], event["skipped"]) for event in skips] == [(1, 1)]
    weights = load_file(next((root / "run").glob("*model.safetensors")))
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


@pytest.mark.parametrize(("damage", "message"), [("nan", "are not finite, such as"), ("missing", "lacks weights")])
def test_adapters_that_are_no_result_are_not_evaluated(root: Path, damage: str, message: str) -> None:
    run(settings(root, "aflora", "run", plan={"schedule": {"warmup": 1, "cooldown": 1}}))
    path = root / "run" / ADAPTER
    weights = load_file(path)
    name = next(name for name in weights if "tapertune" in name)
    if damage == "nan":
        weights[name].view(-1)[0] = float("nan")
    else:
        del weights[name]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(TapertuneError, match=message) as caught:
        evaluate(root / "run", start=lambda count: lambda done: None)
    assert "\n" not in str(caught.value)
