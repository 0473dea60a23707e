"""Runs what is left of a grid until nothing is: with one engine here, beside other processes that share the store."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from .auto import RateOf, auto_jobs
from .engine import Engine, Outcome
from .jobs import Comparison, Job
from .record import RunRecord
from .selection import jobs_left
from .store import Store

_TICK = 1.0  # seconds that an engine is waited for at once
_OTHERS = 5.0  # seconds between two looks at what other processes have finished


@dataclass(kw_only=True)
class Progress:
    """How far a grid is.

    Attributes:
        total: runs that the grid has at most.
        records: what is recorded, by digest, of this grid and others of the store.
        running: what runs here.
        failures: reasons by label, of this sitting.
        began: on the clock ``time.monotonic``.
        made: runs made here.
    """

    total: int
    records: dict[str, RunRecord] = field(default_factory=dict)
    running: list[Job] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    made: int = 0


class Follower(Protocol):
    """Is told how far a grid is."""

    def __call__(self, progress: Progress) -> None: ...


def run_grid(
    comparison: Comparison, store: Store, engine: Engine, follow: Follower, rule: RateOf | None = None
) -> Progress:
    """Makes all runs that have no record.

    Args:
        comparison: the grid.
        store: where its records are.
        engine: makes the runs.
        follow: is told how far it is.
        rule: the learning rate that ``auto`` takes, for grids that run it too.

    Returns:
        How far the grid is: the runs that failed are named, and do not stop the others.

    Raises:
        TapertuneError: the store cannot be read or written.
        KeyboardInterrupt: passed on after all that runs here has ended and its claims are given up.
    """
    progress = Progress(total=comparison.count())
    failed: set[str] = set()
    left: list[Job] = []
    looked = -_OTHERS
    try:
        while True:
            if time.monotonic() - looked >= _OTHERS:
                progress.records = store.records()
                left = list(jobs_left(comparison, progress.records, failed))
                left += auto_jobs(comparison, progress.records, rule, failed)
                looked = time.monotonic()
                progress.running = engine.running()
                follow(progress)
            if not left and not engine.running():
                return progress
            _fill(left, store, engine)
            outcomes = engine.wait(_TICK)
            if not engine.running() and not outcomes:
                time.sleep(_TICK)  # others make what is left
            for outcome in outcomes:
                _keep(outcome, store, progress, failed)
                looked = -_OTHERS
            store.claims.touch()
            follow(progress)
    finally:
        engine.close()
        store.claims.release_all()


def _fill(left: list[Job], store: Store, engine: Engine) -> None:
    """Begins as many of the jobs as there is room for and nobody else makes."""
    running = {job.digest for job in engine.running()}
    for job in left:
        if not engine.has_room():
            return
        if job.digest in running or not store.claims.take(job.digest):
            continue
        if store.has(job.digest):  # another process has made it since the store was read
            store.claims.release(job.digest)
            continue
        engine.submit(job)
        running.add(job.digest)


def _keep(outcome: Outcome, store: Store, progress: Progress, failed: set[str]) -> None:
    job = outcome.job
    if outcome.record is not None:
        store.write(outcome.record, outcome.events)
        progress.made += 1
    else:
        store.note_failure(job.digest, job.label, outcome.reason)
        progress.failures[job.label] = outcome.reason
        failed.add(job.digest)
    store.claims.release(job.digest)
