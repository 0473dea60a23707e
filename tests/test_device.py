"""Every method on a device that is not the processor: what lies where, and how often training waits for it."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import backend_registration

from tapertune.methods import METHODS

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason=f"torch {torch.__version__} has no devices made in Python",
)

# steps at which something is read: those that decide, and for gates that move all the time every tenth
READS = {"aflora": {6}, "adalora": {10, 12}, "lora2": {10, 12}, "sora": {0, 10}}


FREEZES, PRUNES, MAPS = "aflora", "adalora", "loran"
QUICK = (FREEZES, PRUNES, MAPS)  # a process takes ten seconds for each method


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], dict[str, Any]]:
    """What the process found for some methods, each lot of them once."""

    @functools.cache
    def made(names: tuple[str, ...]) -> dict[str, Any]:
        path = tmp_path_factory.mktemp("away") / "runs.json"
        worker = Path(__file__).parent / "away_worker.py"
        # merging LoRAN's map into bfloat16 warns, as it should
        subprocess.run([sys.executable, "-W", "ignore", str(worker), str(path), *names], check=True, timeout=900)
        return json.loads(path.read_text())

    return made


@pytest.fixture(params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def runs(name: str, made: Callable[[tuple[str, ...]], dict[str, Any]]) -> dict[str, Any]:
    return made(QUICK if name in QUICK else tuple(each for each in METHODS if each not in QUICK))


def test_training_is_the_processors(name: str, runs: dict[str, Any]) -> None:
    near, away = runs[name]["near"], runs[name]["away"]
    for key in ("losses", "logits"):
        torch.testing.assert_close(torch.tensor(away[key]), torch.tensor(near[key]), atol=1e-4, rtol=1e-4)
    assert away["frozen"] == near["frozen"] and bool(away["frozen"]) == (name == "aflora")
    assert away["ranks"] == near["ranks"] and (min(away["ranks"]) < 4) == (name in ("adalora", "lora2", "sora"))
    rough = torch.tensor(runs[name]["bfloat16"]["losses"])
    torch.testing.assert_close(rough, torch.tensor(near["losses"]), atol=0.05, rtol=0)


def test_everything_lies_there(name: str, runs: dict[str, Any]) -> None:
    assert {*runs[name]["away"]["devices"], *runs[name]["bfloat16"]["devices"]} == {"away"}


def test_the_device_is_waited_for_when_something_is_decided(name: str, runs: dict[str, Any]) -> None:
    for kind in ("away", "bfloat16"):
        passes, steps = zip(*runs[name][kind]["waits"], strict=True)
        assert all(traffic == runs["base"] for traffic in passes), "forward and backward wait as the base alone does"
        assert {step for step, traffic in enumerate(steps) if traffic} == READS.get(name, set())
        # the threshold, the gates, and once more where ranks go, whose indices go back
        assert all(traffic.get("fetched", 0) <= 3 and traffic.get("sent", 0) <= 1 for traffic in steps)


def test_gradients_that_are_not_finite(name: str, runs: dict[str, Any]) -> None:
    """By default nothing is waited for, and nothing is saved after such a step; where asked, the step is left out."""
    unasked, asked = runs[name]["not finite"]
    assert unasked["left_out"] == 0 and "the gradients of a step since the last look" in unasked["said"]
    assert asked["finite"] and asked["left_out"] == 1 and not asked["said"] and asked["waited"] > 0


def test_serving_and_merging_agree(name: str, runs: dict[str, Any]) -> None:
    for kind, tolerance in (("away", 1e-5), ("bfloat16", 1e-2)):
        adapted, merged = map(torch.tensor, runs[name][kind]["logits"])
        torch.testing.assert_close(merged, adapted, atol=tolerance, rtol=0)
