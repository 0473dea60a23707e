"""Runs jobs in processes of this machine, one thread and one run each, as many at once as memory allows."""

from __future__ import annotations

import multiprocessing
import os
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import psutil

from .engine import Outcome
from .jobs import Job

_FIRST_NEED = 2**30  # bytes that a run is taken to need before one has been seen
_MARGIN = 1.2
_KILLED = "its process was killed (signal {}), as one is that needs more memory than there is"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(kw_only=True)
class _Running:
    job: Job
    process: Any
    results: connection.Connection
    alone: bool


class LocalEngine:
    """Local processes.

    A process that is killed (as the system kills one when memory is short) has its run repeated once, alone.

    Args:
        jobs: the most at once.
        scratch: where runs lie while they are made, and logs after.
        need: bytes that a run needs, where that is known.
    """

    def __init__(self, jobs: int, scratch: Path, need: int = _FIRST_NEED) -> None:
        self._jobs, self._scratch, self._need = jobs, scratch, need
        self._running: list[_Running] = []
        self._again: list[Job] = []
        self._repeated: set[str] = set()
        self._context = _context()

    def has_room(self) -> bool:
        if not self._running:
            return not self._again
        if self._again or any(each.alone for each in self._running) or len(self._running) >= self._jobs:
            return False
        resident = sum(_resident(each.process.pid) for each in self._running)
        coming = max(0.0, self._need * len(self._running) - resident)  # what the running ones may still take
        return psutil.virtual_memory().available - coming > self._need * _MARGIN

    def submit(self, job: Job, *, alone: bool = False) -> None:
        from .worker import work

        ours, theirs = self._context.Pipe(duplex=False)
        arguments = (job, self._scratch, self.log(job), theirs, os.getpid())
        process = self._context.Process(target=work, args=arguments, daemon=True)  # pyright: ignore[reportAttributeAccessIssue]
        with _environment():
            process.start()
        theirs.close()
        self._running.append(_Running(job=job, process=process, results=ours, alone=alone))

    def log(self, job: Job) -> Path:
        """The file that a run's output goes to."""
        return self._scratch / "logs" / f"{job.digest}.log"

    def wait(self, seconds: float) -> list[Outcome]:
        if self._again and not self._running:
            self.submit(self._again.pop(), alone=True)
        if not self._running:
            return []
        ready = connection.wait([each.results for each in self._running], seconds)
        ended = [each for each in self._running if each.results in ready]
        return [outcome for each in ended if (outcome := self._ended(each)) is not None]

    def running(self) -> list[Job]:
        return [*(each.job for each in self._running), *self._again]

    def close(self) -> None:
        for each in self._running:
            with suppress(OSError):
                each.process.kill()
        for each in self._running:
            each.process.join(10)
        self._running, self._again = [], []

    def _ended(self, each: _Running) -> Outcome | None:
        """The outcome of a job whose process has sent it, or has ended without; None where the job is repeated."""
        try:
            message = each.results.recv()
        except (EOFError, OSError):
            message = None
        each.process.join(30)
        self._running.remove(each)
        each.results.close()
        if message is not None and message[0] == "done":
            self._need = max(self._need, int(message[1]["peak_bytes"]))
            with suppress(FileNotFoundError):
                self.log(each.job).unlink()
            return Outcome(job=each.job, record=message[1], events=message[2])
        if message is not None:
            return Outcome(job=each.job, reason=f"{message[1]} (log: {self.log(each.job)})")
        if each.job.digest not in self._repeated:
            self._repeated.add(each.job.digest)
            self._again.append(each.job)
            return None
        code = each.process.exitcode
        return Outcome(
            job=each.job, reason=_KILLED.format(-code) if code and code < 0 else f"its process ended: {code}"
        )


class _environment:
    """The variables that keep a process to one thread, set while it is started."""

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in _ONE_THREAD}
        os.environ.update(_ONE_THREAD)

    def __exit__(self, *error: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _context() -> BaseContext:
    """Processes forked from a server that has loaded all that runs need, where there is such a server."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["tapertune.compare.worker"])
    return context


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
