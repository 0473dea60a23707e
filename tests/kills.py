"""``kill -9`` of a copy of this process: at a moment, or at any operation on files of a save.

A copy (``os.fork``) has all libraries imported, so that an attempt costs what a run costs and no start of an
interpreter. Operations are those that Python announces (files opened for writing, renamed, removed, made) and the
writing of tensors: killed there, half a file is left.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ANNOUNCED = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Operation:
    """The ``number``-th operation on files since a process began its ``save``-th save. Both count from 1.

    Attributes:
        act: what happens there.
    """

    save: int
    number: int
    act: Callable[[], None] = kill


@dataclass(frozen=True)
class Moment:
    """Seconds after the start."""

    seconds: float


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        killed: by SIGKILL.
        code: of its exit, where it was not killed.
        seconds: it took.
        operations: of each save, where it was not killed.
        output: what it wrote to both streams.
    """

    killed: bool
    code: int
    seconds: float
    operations: list[int]
    output: str


@contextmanager
def templates_kept() -> Iterator[None]:
    """Model cards are written at each save, from a template that is compiled each time: in here, and in copies made in
    here, once."""
    from jinja2 import Environment

    inner = Environment.compile
    Environment.compile = functools.cache(inner)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Environment.compile = inner  # type: ignore[method-assign]


def attempt(body: Callable[[], Any], folder: Path, place: Operation | Moment | None = None) -> Outcome:
    """Runs ``body`` in a copy of this process; an exception ends it with code 1, and is in the output.

    Args:
        body: what runs.
        folder: whose files are watched, with ``checkpoint-<step>`` in it.
        place: at which it is killed, or something else happens.
    """
    log, counts = folder.parent / f"{folder.name}.log", folder.parent / f"{folder.name}.counts"
    counts.unlink(missing_ok=True)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, of which here are none that hold
        child = os.fork()
    if not child:
        _live(body, _Counter(folder, place if isinstance(place, Operation) else None), log, counts)
    if isinstance(place, Moment):
        time.sleep(place.seconds)
        os.kill(child, signal.SIGKILL)  # not waited for yet, so the number is still the child's
    status = os.waitpid(child, 0)[1]
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return Outcome(
        killed=killed,
        code=-1 if killed else os.waitstatus_to_exitcode(status),
        seconds=time.perf_counter() - began,
        operations=json.loads(counts.read_text()) if counts.exists() else [],
        output=log.read_text(errors="replace"),
    )


def _live(body: Callable[[], Any], counter: _Counter, log: Path, counts: Path) -> None:
    """The copy's life. It never returns."""
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        gc.freeze()  # what was there before has not to be looked through whenever a run collects
        os.fsync = lambda descriptor: None  # a kill loses nothing that the system has
        counter.begin()
        returned = body()
        code = returned if isinstance(returned, int) else 0
        counts.write_text(json.dumps(counter.saves))
    except BaseException:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))  # room for this
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


class _Counter:
    """Counts operations, and acts at one."""

    def __init__(self, folder: Path, place: Operation | None) -> None:
        self._prefix, self._place = f"{folder}{os.sep}", place
        self._armed = place is not None
        self.saves: list[int] = []
        self._newest = -1

    def begin(self) -> None:
        import safetensors.torch
        import torch

        sys.addaudithook(self._audit)
        torch.save = self._halved(torch.save, place=1)
        safetensors.torch.serialize_file = self._halved(safetensors.torch.serialize_file, place=1)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _ANNOUNCED or (event == "open" and not (arguments[2] or 0) & _WRITES):
            return
        if self._is_it(arguments[0]):
            self._act()

    def _halved(self, write: Callable[..., Any], place: int) -> Callable[..., Any]:
        def halved(*arguments: Any, **keywords: Any) -> Any:
            path = os.fspath(arguments[place]) if isinstance(arguments[place], str | os.PathLike) else ""
            if not self._is_it(path):
                return write(*arguments, **keywords)
            if self._place is not None and self._place.act is kill:
                self._armed = False
                write(*arguments, **keywords)
                if path.endswith(".safetensors") and self._place.number % 2:  # it lets files appear whole
                    path = shutil.move(path, os.path.join(os.path.dirname(path), ".tmpHalf00"))
                os.truncate(path, os.path.getsize(path) // 2)
            self._act()
            return write(*arguments, **keywords)

        return halved

    def _is_it(self, path: Any) -> bool:
        if not isinstance(path, str | os.PathLike) or not (name := os.fspath(path)).startswith(self._prefix):
            return False
        checkpoint = _CHECKPOINT.match(name.removeprefix(self._prefix))
        if checkpoint and int(checkpoint[1]) > self._newest:
            self._newest = int(checkpoint[1])
            self.saves.append(0)
        if not self.saves:
            return False
        self.saves[-1] += 1
        place = self._place
        return self._armed and place is not None and (place.save, place.number) == (len(self.saves), self.saves[-1])

    def _act(self) -> None:
        self._armed = False
        assert self._place is not None, "there is a place"
        self._place.act()


def kill_often(body: Callable[[], Any], folder: Path, plan: Iterator[Operation | Moment], kills: int) -> Iterator[Path]:
    """Kills a run again and again, until there were so many kills; each run that came to its end is yielded.

    Args:
        body: begins the run, or goes on with it.
        folder: of the run; emptied after each end.
        plan: when to kill, for ever.
        kills: in all.
    """
    done = 0
    while done < kills:
        for _ in range(min(5, kills - done)):
            outcome = attempt(body, folder, next(plan))
            if not outcome.killed:
                break
            done += 1
        else:
            outcome = attempt(body, folder)
        assert outcome.code == 0, outcome.output
        yield folder
        shutil.rmtree(folder)


def points(seed: int, whole: Outcome) -> Iterator[Operation | Moment]:
    """Where to kill, drawn: operations of a save one after another, and moments of a run in between.

    Args:
        seed: of the draws.
        whole: a run that nobody killed.
    """
    draw = random.Random(seed)
    while True:
        numbers = list(range(1, max(whole.operations) + 1))
        draw.shuffle(numbers)
        for place, number in enumerate(numbers):
            yield Operation(1 + (place % 2), number)
            if place % 3 == 1:
                yield Moment(draw.uniform(0.0, 0.7) * whole.seconds)
