"""One run at a time in a folder: a lock that says who has it, and that ends with its process, however that ends.
Standard library only."""

from __future__ import annotations

import atexit
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import TapertuneError
from .files import drop_temporaries, read_json_object

try:
    import fcntl
except ImportError:  # pragma: no cover - no such locks on this system: then there is none
    fcntl = None

LOCK = "_tapertune.lock"  # Trainer leaves what begins so out of what it pushes to the hub
FORMER = ".tapertune.lock"  # of earlier versions

_mine: dict[str, int] = {}
"""Open lock files of this process, by the real paths of their folders."""
_for_now: set[str] = set()
"""Those folders of them that are locked by ``locked``, which lets them go."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder.

    Raises:
        TapertuneError: another run has it, of this process or of another.
    """
    key = os.path.realpath(folder)
    if key not in _for_now:
        let_go(folder)  # left by a training of this process that failed: it is over
    descriptor = _take(folder / LOCK)
    if descriptor is not None:
        _mine[key] = descriptor
        _for_now.add(key)
    try:
        yield
    finally:
        if descriptor is not None:
            _for_now.discard(key)
            let_go(folder)


def hold(folder: Path) -> None:
    """Keeps other processes out of a folder until ``let_go``, or this process's end. Nothing where it does so already,
    or where files cannot be made or locked.

    Training that fails does not come to ``let_go``; in a notebook, the same process may train there again.

    Raises:
        TapertuneError: another process has it.
    """
    key = os.path.realpath(folder)
    if key in _mine and _is_same(folder / LOCK, _mine[key]):
        return
    if key in _mine:  # the folder was deleted and is made anew
        os.close(_mine.pop(key))
    with suppress(OSError):  # what is written later will say what is wrong with the folder
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take(folder / LOCK)
        if descriptor is not None:
            _mine[key] = descriptor


def let_go(folder: Path) -> None:
    """Lets other processes into a folder that ``hold`` has kept them out of."""
    key = os.path.realpath(folder)
    if key not in _for_now and key in _mine:
        descriptor = _mine.pop(key)
        if _is_same(folder / LOCK, descriptor):
            with suppress(OSError):  # the folder may be read-only by now
                os.unlink(folder / LOCK)
        os.close(descriptor)


def check_free(folder: Path) -> None:
    """Raises TapertuneError if another run has a folder."""
    key = os.path.realpath(folder)
    if (folder / LOCK).exists() and (key not in _mine or key in _for_now):
        with locked(folder):
            pass


def sweep(folder: Path) -> None:
    """Deletes what a killed process was writing into a run's folder, unless a run is there."""
    if os.path.realpath(folder) not in _mine:
        with suppress(TapertuneError, OSError):
            check_free(folder)
            drop_temporaries(folder)


def _take(path: Path) -> int | None:
    """An open file that is locked; None where the file system knows no locks."""
    while fcntl is not None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _owner(path)
            os.close(descriptor)
            raise TapertuneError(
                f"output_dir {str(path.parent)!r} is in use by {owner}: wait for it, or choose another"
            ) from error
        except OSError:
            os.close(descriptor)
            return None
        if _is_same(path, descriptor):  # not one that its owner has just let go of and deleted
            os.ftruncate(descriptor, 0)
            mine = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            os.write(descriptor, json.dumps(mine).encode())
            return descriptor
        os.close(descriptor)
    return None


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def _owner(path: Path) -> str:
    try:
        owner = read_json_object(path)
        return f"process {owner['process']} on {owner['host']} since {owner['since']}"
    except (TapertuneError, KeyError):
        return "another process"


def _end() -> None:
    _for_now.clear()
    for folder in list(_mine):
        let_go(Path(folder))


def _leave_to_parent() -> None:
    """A copy of this process, such as one that loads data, has no part in its locks, which would else outlive it."""
    for descriptor in _mine.values():
        os.close(descriptor)
    _mine.clear()
    _for_now.clear()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
