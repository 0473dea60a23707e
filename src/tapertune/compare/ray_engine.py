"""Runs jobs on a Ray cluster: the same grid, one CPU a run; a run whose worker dies is made again."""

from __future__ import annotations

import dataclasses
import importlib
import os
from pathlib import Path
from typing import Any

from ..errors import TapertuneError
from ..files import write_bytes
from .engine import Outcome
from .jobs import Job

RETRIES = 5  # times that a run is made again because its worker died
_QUEUED = 2  # runs that wait in the cluster for each that it can make at once


class RayEngine:
    """A Ray cluster: the one at ``RAY_ADDRESS``, or else one that is started here.

    Its machines need tapertune and the base model, and read nothing else of this one: rows travel with the runs.

    Args:
        scratch: where rows and unfinished runs lie, on each machine.
        cpus: of a cluster that is started here; None for all.

    Raises:
        TapertuneError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, scratch: Path, cpus: int | None = None) -> None:
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise TapertuneError("--engine ray needs Ray, which is not installed: pip install ray") from error
        self._ray = ray
        self._scratch = scratch
        self._own = not ray.is_initialized()
        if self._own:
            address = os.environ.get("RAY_ADDRESS")
            here = {} if address else {"num_cpus": cpus, "include_dashboard": False}
            try:
                ray.init(address=address, log_to_driver=False, **here)
            except Exception as error:  # Ray raises many kinds, plain Exception among them
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                where = f"at RAY_ADDRESS {address!r}" if address else "could be started here"
                raise TapertuneError(f"--engine ray: no Ray cluster {where}: {reason}") from error
        self._remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_make)
        self._rows: dict[str, Any] = {}
        self._running: dict[Any, Job] = {}

    def has_room(self) -> bool:
        slots = int(self._ray.cluster_resources().get("CPU", 1))
        return len(self._running) < max(1, slots) * _QUEUED

    def submit(self, job: Job) -> None:
        rows = {name: self._held(path) for name, path in job.files.items()}
        reference = self._remote.remote(job, self._scratch, list(rows), *rows.values())
        self._running[reference] = job

    def wait(self, seconds: float) -> list[Outcome]:
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [self._ended(reference) for reference in ready]

    def running(self) -> list[Job]:
        return list(self._running.values())

    def close(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running = {}
        if self._own:
            self._ray.shutdown()

    def _held(self, path: str) -> Any:
        """A file's content in the cluster, sent once."""
        if path not in self._rows:
            self._rows[path] = self._ray.put(Path(path).read_bytes())
        return self._rows[path]

    def _ended(self, reference: Any) -> Outcome:
        job = self._running.pop(reference)
        try:
            record, events = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if getattr(error, "cause", None) is not None else error
            return Outcome(job=job, reason=f"{type(cause).__name__}: {' '.join(str(cause).split())}")
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[0]
            return Outcome(job=job, reason=f"its worker died {RETRIES + 1} times: {first}")
        return Outcome(job=job, record=record, events=events)


def _make(job: Job, scratch: Path, names: list[str], *rows: bytes) -> tuple[dict[str, Any], bytes | None]:
    """A run in a worker of the cluster, on rows that came with it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from .perform import perform

    place = scratch / "rows" / "-".join(job.data[name] for name in names)
    place.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    for name, content in zip(names, rows, strict=True):
        file = place / f"{name}.jsonl"
        if not file.is_file() or file.stat().st_size != len(content):
            write_bytes(file, content)
        files[name] = str(file)
    return perform(dataclasses.replace(job, files=files), scratch)
