"""Claims: which process makes which run. A claim is a file that only one process can make, and that says whose it is.

A claim dies with its owner: one of this machine whose process is gone, or one of another machine that was not touched
for ``STALE`` seconds, may be taken over. Should two processes take over one claim at the same moment, a run is made
twice; its record is the same.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from ..errors import TapertuneError
from ..files import read_json_object

STALE = 900.0  # seconds
_CLOCK = 5.0  # seconds
TOUCH = 60.0  # seconds between two signs of life


class Claims:
    """This process's claims in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
        self._held: set[str] = set()
        self._touched = time.monotonic()

    def take(self, name: str) -> bool:
        """Whether the claim of that name is now this process's."""
        path = self._path(name)
        if self._make(path):
            self._held.add(name)
            return True
        owner = _read(path)
        if owner is not None and self._lives(path, owner):
            return False
        self._clear(path, owner)
        if self._make(path):
            self._held.add(name)
            return True
        return False

    def release(self, name: str) -> None:
        """Gives a claim up; one that is not held is left alone."""
        if name in self._held:
            self._held.discard(name)
            with suppress(FileNotFoundError):
                self._path(name).unlink()

    def release_all(self) -> None:
        for name in list(self._held):
            self.release(name)

    def touch(self) -> None:
        """A sign of life for other machines; costs nothing when one was given just now."""
        if time.monotonic() - self._touched < TOUCH:
            return
        self._touched = time.monotonic()
        for name in self._held:
            with suppress(OSError):
                os.utime(self._path(name))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.claim"

    def _make(self, path: Path) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({**self._owner, "token": uuid.uuid4().hex}, file)
        return True

    def _lives(self, path: Path, owner: dict[str, Any]) -> bool:
        if owner.get("host") != self._owner["host"]:
            return _age(path) < STALE
        pid, started = owner.get("pid"), owner.get("started")
        began = _started(pid) if isinstance(pid, int) else None
        # the system's clock may have been set meanwhile, by a little
        return began is not None and isinstance(started, int | float) and abs(began - started) < _CLOCK

    def _clear(self, path: Path, owner: dict[str, Any] | None) -> None:
        """Removes a dead claim. It is moved first: another process may have taken it over meanwhile."""
        if owner is None and _age(path) < 5.0:  # its maker may be writing it
            return
        moved = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        try:
            os.rename(path, moved)
        except FileNotFoundError:
            return
        if _read(moved) != owner:  # it was another's, and alive: back with it
            with suppress(OSError):
                os.link(moved, path)
        moved.unlink()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json_object(path)
    except TapertuneError:
        return None


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _started(pid: int) -> float | None:
    """When a process began, which tells it from a later one of its number; None where there is none."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time(), 1)
    except (psutil.Error, ValueError, OverflowError):  # no number of a process
        return None
