"""How many threads a run computes with."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from train.tiny_run import raw_settings

from tapertune.runfile.record import read_record
from tapertune.runfile.settings import check_settings
from tapertune.train import openmp, threads
from tapertune.train.progress import Display
from tapertune.train.runner import run


@pytest.fixture
def two() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def quick(root: Path, **changes: Any) -> Any:
    return check_settings(
        raw_settings(root, **{"training__max_steps": 8, "training__save_strategy": "steps", **changes})
    )


class Stop(Display):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 6:
            raise KeyboardInterrupt


def test_the_quickest_number_is_taken_and_said_and_changes_nothing_else(
    root: Path, two: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threads, "LEAST_STEPS", 4)
    record = run(quick(root, output_dir=str(root / "a")), free_threads=True)
    number = record["hardware"]["threads"]
    [line] = [line for line in capsys.readouterr().err.splitlines() if "s a batch" in line]
    assert line.startswith(f"note: {number} thread") and "(--threads) or OMP_NUM_THREADS sets another number" in line
    assert f"with {3 - number}" in line
    assert torch.get_num_threads() == 2
    run(quick(root, output_dir=str(root / "b"), threads=number), free_threads=True)
    assert "s a batch" not in capsys.readouterr().err
    weights = [(root / name / "adapter_model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_number_that_is_set_is_kept(root: Path, two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "LEAST_STEPS", 4)
    monkeypatch.setattr(threads, "measure", None)
    assert run(quick(root))["hardware"]["threads"] == 2  # torch.set_num_threads
    assert run(quick(root, threads=1), overwrite=True, free_threads=True)["hardware"]["threads"] == 1
    assert torch.get_num_threads() == 2


@pytest.mark.slow
def test_a_run_goes_on_with_the_number_that_it_began_with(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert torch.get_num_threads() == 1
    with pytest.raises(KeyboardInterrupt):
        run(quick(root, threads=2), display=Stop())
    assert read_record(root / "run").hardware.threads == 2
    shutil.copytree(root / "run", root / "set")
    # threads are no part of what has to be as before
    assert run(quick(root), resume=True, free_threads=True)["hardware"]["threads"] == 2
    assert "began with" not in capsys.readouterr().err
    run(quick(root, output_dir=str(root / "set")), resume=True)
    assert "note: the run began with 2 threads and goes on with 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "free", "waiting"),
    [
        ({}, True, openmp.WAITING),
        ({"OMP_NUM_THREADS": "2"}, False, openmp.WAITING),
        ({"MKL_NUM_THREADS": "2"}, False, openmp.WAITING),
        ({"OMP_WAIT_POLICY": "active"}, True, {}),
        ({"GOMP_SPINCOUNT": "7"}, True, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], free: bool, waiting: dict[str, str]
) -> None:
    monkeypatch.setattr(os, "environ", dict(environment))
    monkeypatch.setattr(openmp, "_free", False)
    assert openmp.begin() is False  # torch is loaded: somebody may have set the number
    assert os.environ == environment
    monkeypatch.delitem(sys.modules, "torch")
    assert openmp.begin() is openmp.are_threads_free() is free
    assert {name: os.environ[name] for name in openmp.WAITING if name in os.environ} == waiting


def test_numbers_to_try() -> None:
    assert [threads.candidates(most) for most in (1, 2, 3, 16)] == [[1], [1, 2], [1, 3], [1, 8, 16]]
    assert threads.quickest({1: 1.0, 2: 0.97, 4: 0.5, 8: 0.51}) == 4
    calls: list[int] = []
    seconds = threads.measure(lambda: calls.append(torch.get_num_threads()), [1])
    assert list(seconds) == [1] and len(calls) == threads.ROUNDS + 1
