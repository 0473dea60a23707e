"""One run at a time in a folder: a lock that says who has it, and that ends with its process, however that ends."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import TapertuneError
from ..files import read_json_object
from .run_folder import LOCK

try:
    import fcntl
except ImportError:  # pragma: no cover - no such locks on this system: then there is none
    fcntl = None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder.

    Raises:
        TapertuneError: another process has it.
    """
    descriptor = _take(folder / LOCK)
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):  # the folder may be gone, or read-only by now
                os.unlink(folder / LOCK)
            os.close(descriptor)


def check_free(folder: Path) -> None:
    """Raises TapertuneError if another process runs in a folder."""
    if (folder / LOCK).exists():
        with locked(folder):
            pass


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
