"""Regular expressions of configs: matched in bounded time, or refused in one line."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest
from peft import get_peft_model
from tiny import tiny_bert

import tapertune
from tapertune.errors import TapertuneError
from tapertune.host import patterns
from tapertune.methods import METHODS

ENDLESS = r"(([a-z0-9_]|\.)+)+Q"


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 0.05)


@pytest.mark.usefixtures("briefly")
@pytest.mark.parametrize("method", METHODS)
def test_a_pattern_without_end_is_refused(method: str) -> None:
    with pytest.raises(TapertuneError, match=r"target_modules '\(\(.* takes more than 0.05 s") as caught:
        get_peft_model(tiny_bert(), tapertune.make_config(method, target_modules=ENDLESS))
    assert "\n" not in str(caught.value)
    assert signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


@pytest.mark.usefixtures("briefly")
@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["query"], "exclude_modules": ENDLESS},
        {"target_modules": ["query"], "modules_to_save": [ENDLESS]},
        {"target_modules": ["query"], "layers_to_transform": [0], "layers_pattern": r"((b|\w|\.)+)+Q"},
    ],
)
def test_so_are_patterns_in_other_fields(fields: dict[str, Any]) -> None:
    with pytest.raises(TapertuneError, match=f"{list(fields)[-1]} .* takes more than"):
        get_peft_model(tiny_bert(), tapertune.make_config("lora", **fields))


@pytest.mark.parametrize("pattern", ["(", "*query", "a{2,1}", "(?P<a>x)(?P<a>y)", "[z-a]"])
@pytest.mark.parametrize("field", ["target_modules", "exclude_modules"])
def test_what_is_no_pattern_is_refused(field: str, pattern: str) -> None:
    fields = {"target_modules": ["query"], field: pattern}
    with pytest.raises(TapertuneError, match=f"{field} .* is no regular expression: "):
        get_peft_model(tiny_bert(), tapertune.make_config("lora", **fields))


def test_a_usual_pattern_is_matched_in_any_thread() -> None:
    models: list[Any] = []
    config = tapertune.make_config("lora", target_modules=r".*\.(query|value)")
    thread = threading.Thread(target=lambda: models.append(get_peft_model(tiny_bert(), config)))
    thread.start()
    thread.join()
    assert len(models) == 1


def test_a_timer_that_was_running_runs_on() -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, 1000)
    try:
        get_peft_model(tiny_bert(), tapertune.make_config("lora", target_modules=".*query"))
        assert 900 < signal.getitimer(signal.ITIMER_VIRTUAL)[0] <= 1000
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
