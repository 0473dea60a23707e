"""A saved adapter or model is worth what its training's last evaluation said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from train.tiny_run import raw_settings

from tapertune.events import read_events
from tapertune.methods import METHODS
from tapertune.runfile.settings import BASELINES, check_settings
from tapertune.train.evaluation import evaluate
from tapertune.train.runner import run

# So that within fifteen steps something freezes, is pruned or shrinks.
SETTINGS: dict[str, dict[str, Any]] = {
    "adalora": {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 4, "deltaT": 1},
    "lora2": {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 4, "deltaT": 1, "k": 4},
    "sora": {"r": 4, "threshold": 0.02},
    "elora": {"r": 8},
    "loran": {"r": 4, "amplitude": 0.5},
}


def trained(root: Path, method: str, **changes: Any) -> dict[str, float]:
    """The metrics of a run, which its last evaluation while training found too."""
    raw = raw_settings(root, method, **changes)
    raw["method"] |= SETTINGS.get(method, {})
    record = run(check_settings(raw))
    last = [event for event in read_events(root / "run" / "events.jsonl") if event["type"] == "eval"][-1]
    assert record["metrics"] == pytest.approx(last["metrics"], abs=1e-6)
    return record["metrics"]


def evaluated(root: Path) -> dict[str, float]:
    _, found, notes = evaluate(root / "run", start=lambda rows: lambda done: None)
    assert notes == []
    return found["validation"].metrics


@pytest.mark.parametrize("method", [*METHODS, *BASELINES])
def test_every_method(root: Path, method: str) -> None:
    metrics = trained(root, method)
    assert evaluated(root) == pytest.approx(metrics, abs=1e-6)


@pytest.mark.parametrize("method", ["lora", "adalora", "aflora", "full"])
@pytest.mark.parametrize(
    "changes", [{"training__bf16": True, "training__use_cpu": True}, {"dtype": "bfloat16"}], ids=["autocast", "base"]
)
def test_in_bfloat16(root: Path, method: str, changes: dict[str, Any]) -> None:
    metrics = trained(root, method, **changes)
    assert evaluated(root) == pytest.approx(metrics, abs=1e-6)
