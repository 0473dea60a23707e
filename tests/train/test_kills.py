"""``kill -9`` at file operations of a run, several times in one run: it ends as one that nobody killed, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from train.tiny_run import raw_settings

from tapertune.events import read_events
from tapertune.methods import METHODS
from tapertune.runfile.record import FILE
from tapertune.runfile.settings import check_settings
from tapertune.train.runner import run

WRITES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate")
SAME = ("adapter_model.safetensors", "adapter_config.json", "events.jsonl", "task.json")


def settings(root: Path, method: str, name: str) -> Any:
    raw = raw_settings(
        root, method, output_dir=str(root / name), training__max_steps=12, training__save_steps=1,
        training__logging_steps=5, training__save_total_limit=1, training__eval_strategy="epoch",
    )  # fmt: skip
    raw.pop("plan", None)
    if method == "aflora":
        raw["plan"] = {"schedule": {"kind": "cubic", "warmup": 1, "cooldown": 3, "every": 2}}
    return check_settings(raw)


def killed_at(count: int, run_settings: Any) -> int:
    """Runs in a child that is killed at an operation on a file of the run's folder; the child's status."""
    folder = Path(run_settings.output_dir)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, of which here are none that hold
        child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    left = [count]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in WRITES or not str(arguments[0]).startswith(f"{folder}{os.sep}"):
            return
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.addaudithook(watch)
        run(run_settings, resume=(folder / FILE).exists())
        code = 0
    finally:
        os._exit(code)


def kill_often(root: Path, method: str, kills: int, seed: int) -> None:
    run(settings(root, method, "whole"))
    draw, hits, cut = random.Random(seed), 0, settings(root, method, "cut")
    while hits < kills:
        status = killed_at(draw.randrange(1, 120), cut)
        if status == 0:
            break
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        hits += 1
    else:
        run(cut, resume=(Path(cut.output_dir) / FILE).exists())
    for name in SAME:
        assert (root / "cut" / name).read_bytes() == (root / "whole" / name).read_bytes(), name
    assert [event["type"] for event in read_events(root / "cut" / "events.jsonl")].count("start") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("method", METHODS)
def test_three_kills_change_nothing(root: Path, method: str) -> None:
    kill_often(root, method, kills=3, seed=len(method))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("seed", range(14))
@pytest.mark.parametrize("method", METHODS)
def test_many_kills_change_nothing(root: Path, method: str, seed: int) -> None:
    kill_often(root, method, kills=3, seed=seed)
