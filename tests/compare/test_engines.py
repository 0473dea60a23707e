"""Whole grids of tiny runs: in local processes, killed and started again, and on a Ray cluster that loses a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from compare.tiny_grid import comparison_of, write_grid

from tapertune.compare.driver import Progress, run_grid
from tapertune.compare.engine import Outcome
from tapertune.compare.jobs import Job
from tapertune.compare.local import LocalEngine
from tapertune.compare.perform import perform
from tapertune.compare.statistics import summarise
from tapertune.compare.store import Store


def ignore(progress: Progress) -> None:
    return


class Here:
    """An engine that makes each run at once in this process; runs whose label holds ``bad`` fail."""

    def __init__(self, scratch: Path, bad: str = "nothing") -> None:
        self._scratch, self._bad, self._jobs = scratch, bad, list[Job]()
        self.made: list[str] = []

    def has_room(self) -> bool:
        return not self._jobs

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def wait(self, seconds: float) -> list[Outcome]:
        jobs, self._jobs = self._jobs, []
        return [self._outcome(job) for job in jobs]

    def _outcome(self, job: Job) -> Outcome:
        if self._bad in job.label:
            return Outcome(job=job, reason="MemoryError: too large")
        self.made.append(job.label)
        record, events = perform(job, self._scratch)
        return Outcome(job=job, record=record, events=events)

    def running(self) -> list[Job]:
        return list(self._jobs)

    def close(self) -> None:
        self._jobs = []


def table(root: Path, store: Path, **changes: Any) -> list[tuple[str, float, float]]:
    comparison = comparison_of(root, **changes)
    return [(s.row, s.mean, s.point.rate) for s in summarise(comparison, Store(store).records())]


def test_a_grid_is_run_to_its_end_and_not_again(root: Path) -> None:
    comparison, store = comparison_of(root), Store(root / "store")
    store.prepare(comparison)
    engine = Here(root / "scratch")
    assert run_grid(comparison, store, engine, ignore).made == 6  # two rates and a second seed, twice
    assert len(engine.made) == 6 and len(table(root, root / "store")) == 2
    again = Here(root / "scratch")
    assert run_grid(comparison, Store(root / "store"), again, ignore).made == 0 and not again.made
    assert not list((root / "store" / "claims").iterdir())


def test_a_failure_is_named_and_stops_nothing_else(root: Path) -> None:
    comparison, store = comparison_of(root), Store(root / "store")
    store.prepare(comparison)
    progress = run_grid(comparison, store, Here(root / "scratch", bad="lora on sst2, rate 1e-2"), ignore)
    assert progress.failures == {"lora on sst2, rate 1e-2, seed 1": "MemoryError: too large"}
    assert progress.made == 5  # the row goes on with the rate that is left
    later = run_grid(comparison, Store(root / "store"), Here(root / "scratch"), ignore)
    assert later.made in (1, 2) and not later.failures and not list((root / "store" / "failures").iterdir())


def test_the_same_run_in_two_sittings_has_the_same_scores(root: Path) -> None:
    comparison = comparison_of(root)
    job = comparison.job("lora", "sst2", comparison.points["lora"][1], 1)
    first, second = (perform(job, root / name)[0] for name in ("one", "two"))
    times = ("wall_seconds", "cpu_seconds", "train_seconds", "train_cpu_seconds", "peak_bytes", "commit")
    assert {k: v for k, v in first.items() if k not in times} == {k: v for k, v in second.items() if k not in times}


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_it_gives_the_same_table(root: Path) -> None:
    grid, store = write_grid(root), root / "store"
    command = [sys.executable, "-m", "tapertune", "compare", str(grid), "--store", str(store), "--scratch",
               str(root / "scratch"), "--jobs", "2"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for records in (1, 2, 4):  # killed when so many are there
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(store.glob("runs/*.json"))) < records:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, env=env, check=True, capture_output=True)
    assert len(list(store.glob("runs/*.json"))) == 6 and not list(store.glob("**/*.tmp*"))
    comparison, other = comparison_of(root), Store(root / "other")
    other.prepare(comparison)
    run_grid(comparison, other, Here(root / "scratch"), ignore)
    assert table(root, store) == table(root, root / "other")
    assert (store / "report" / "report.html").is_file() and (store / "report" / "report.md").is_file()


@pytest.mark.slow
def test_a_killed_process_has_its_run_repeated_alone(root: Path) -> None:
    comparison = comparison_of(root)
    engine = LocalEngine(2, root / "scratch")
    jobs = [comparison.job(row, "sst2", comparison.points[row][0], 1) for row in ("lora", "head")]
    try:
        for job in jobs:
            engine.submit(job)
        os.kill(engine._running[0].process.pid, signal.SIGKILL)
        outcomes: list[Outcome] = []
        deadline = time.monotonic() + 300
        while len(outcomes) < 2 and time.monotonic() < deadline:
            outcomes += engine.wait(1.0)
        assert {o.job.digest for o in outcomes} == {job.digest for job in jobs} and all(o.record for o in outcomes)
        assert engine._repeated == {jobs[0].digest}
    finally:
        engine.close()


@pytest.mark.extra
@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_worker_makes_the_same_table(root: Path) -> None:
    ray = pytest.importorskip("ray")
    import psutil

    from tapertune.compare.ray_engine import RayEngine

    comparison, store, killed = comparison_of(root), Store(root / "store"), list[int]()
    store.prepare(comparison)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    engine, over = RayEngine(root / "ray", cpus=2), threading.Event()

    def kill_one() -> None:
        """Kills the first worker that makes a run."""
        while not over.is_set() and not killed:
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.name().startswith("ray::_make") or "ray::_make" in " ".join(process.cmdline()):
                        process.kill()
                        killed.append(process.pid)
                        break
                except psutil.Error:
                    continue
            time.sleep(0.05)

    thread = threading.Thread(target=kill_one)
    thread.start()
    try:
        progress = run_grid(comparison, store, engine, ignore)
    finally:
        over.set()
        thread.join()
    assert killed and progress.made == 6 and not progress.failures and not ray.is_initialized()
    other = Store(root / "other")
    other.prepare(comparison)
    run_grid(comparison, other, Here(root / "scratch"), ignore)
    assert table(root, root / "store") == table(root, root / "other")
    assert json.loads((root / "store" / "store.json").read_text())["tasks"]
