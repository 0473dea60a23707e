"""Runs without a learning rate: every method learns, says which rate it took, and goes on at it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from train.tiny_run import raw_settings

from tapertune.errors import TapertuneError
from tapertune.methods import METHODS
from tapertune.runfile.recipes import recipe_files
from tapertune.runfile.record import FILE, read_record
from tapertune.runfile.settings import BASELINES, check_settings, load_settings
from tapertune.train.progress import Display
from tapertune.train.runner import run


class Stop(Display):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 9:
            raise KeyboardInterrupt


def raw(root: Path, method: str, rate: Any = None, **changes: Any) -> dict[str, Any]:
    found = raw_settings(root, method, **changes)
    del found["training"]["learning_rate"]
    found.pop("plan", None)
    if rate is not None:
        found["training"]["learning_rate"] = rate
    return found


@pytest.mark.parametrize("method", [*METHODS, *BASELINES])
def test_a_run_takes_the_rules_rate_and_says_why(root: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = run(check_settings(raw(root, method, **{"training__max_steps": 2})))
    rate = made["learning_rate"]
    assert rate["low"] < rate["rate"] < rate["high"] and method in rate["reasons"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: learning rate")]
    (line,) = lines
    assert f"for {method}, hidden width 16, 2 steps of 8 rows" in line
    assert rate["source"] in line
    losses = [json.loads(text) for text in (root / "run" / "events.jsonl").read_text().splitlines()]
    assert max(event["lr"] for event in losses if event["type"] == "loss") <= rate["rate"]
    assert made["settings"]["training"]["learning_rate"] == "auto"


def test_a_given_rate_is_taken_and_doubted_only_when_far_off(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rate, doubted in ((1e-3, False), (1e-7, True), (9.0, True)):
        settings = raw(root, "lora", rate, training__max_steps=2)
        made = run(check_settings(settings), overwrite=True)
        assert made.get("learning_rate") is None
        lines = [line for line in capsys.readouterr().err.splitlines() if "learned at" in line]
        assert len(lines) == doubted
        assert all(line.startswith("warning: training.learning_rate: ") for line in lines)


def test_a_run_goes_on_at_the_rate_it_began_with(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = check_settings(raw(root, "lora"))
    with pytest.raises(KeyboardInterrupt):
        run(settings, display=Stop())
    began = json.loads((root / "run" / FILE).read_text())["learning_rate"]
    row = METHODS["lora"]
    other = dataclasses.replace(row, rates=dataclasses.replace(row.rates, rate=2 * row.rates.rate))
    monkeypatch.setitem(METHODS, "lora", other)  # the rule's constants are others by now
    done = run(settings, resume=True)
    assert done["learning_rate"]["rate"] == began["rate"]


def test_a_run_of_a_version_without_auto_goes_on_at_its_number(root: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(check_settings(raw(root, "lora", 1e-3)), display=Stop())
    assert run(check_settings(raw(root, "lora")), resume=True)["settings"]["training"]["learning_rate"] == 1e-3
    assert read_record(root / "run").learning_rate is None


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(0, "0"), (0.0, "0.0"), (-1e-3, "-0.001"), (float("nan"), "nan"), (float("inf"), "inf"), (True, "True"),
     ("quick", "'quick'"), (None, "None")],
)  # fmt: skip
def test_wrong_rates(root: Path, rate: Any, shown: str) -> None:
    settings = raw(root, "lora")
    settings["training"]["learning_rate"] = rate
    with pytest.raises(TapertuneError) as caught:
        check_settings(settings)
    assert str(caught.value) == f"training.learning_rate is {shown}; it must be a number above 0, or auto"


@pytest.mark.parametrize("written", ["atuo", "Auto", "automatic"])
def test_auto_misspelt(root: Path, written: str) -> None:
    with pytest.raises(TapertuneError, match=r"a number above 0, or auto: did you mean 'auto'\?"):
        check_settings(raw(root, "lora", written))


def test_recipes_name_their_rates() -> None:
    for name, path in recipe_files().items():
        assert isinstance(load_settings(path).training["learning_rate"], float), name
