"""Whether a checkpoint is what was written: a list of its files with sizes and digests, which is written last.

A checkpoint without it was cut short (or comes from elsewhere); one that differs from it has been damaged since, and
would be resumed from as another run, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..errors import TapertuneError
from ..files import drop_temporaries, is_temporary, write_json

MANIFEST = "tapertune_manifest.json"
VERSION = 1
_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
_BLOCK = 2**20
_log = logging.getLogger("tapertune")


class Fault(NamedTuple):
    """Why a checkpoint is not whole.

    Attributes:
        reason: as part of a sentence.
        cut_short: whether it looks as a kill in the middle of writing leaves it.
    """

    reason: str
    cut_short: bool


def write_manifest(folder: Path) -> None:
    """Lists a checkpoint's files as they are now. They and the list are on the disk when this returns.

    Raises:
        OSError: a file cannot be read.
        TapertuneError: the list cannot be written.
    """
    drop_temporaries(folder)  # of a process that was killed while it wrote this checkpoint
    files = {name: _entry(folder / name) for name in sorted(_names(folder))}
    write_json(folder / MANIFEST, {"version": VERSION, "files": files, "sha256": _digest(files)})
    _sync(folder)


def find_fault(folder: Path, *, deep: bool = True) -> Fault | None:
    """Why a checkpoint is not whole; None where it is. Not ``deep``: as far as the manifest alone says."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        return Fault("it has no manifest: it was cut short while it was written", cut_short=True)
    except (OSError, ValueError) as error:
        return Fault(f"its manifest cannot be read ({error})", cut_short=False)
    entries = _entries(text)
    if entries is None:
        return Fault("its manifest is damaged", cut_short=False)
    for name, (size, digest) in entries.items() if deep else ():
        try:
            length, actual = _entry(folder / name).values()
        except FileNotFoundError:
            return Fault(f"{name} is missing", cut_short=False)
        except OSError as error:
            return Fault(f"{name} cannot be read ({error.strerror or error})", cut_short=False)
        if length != size:
            return Fault(f"{name} has {length} bytes and was written with {size}", cut_short=False)
        if actual != digest:
            return Fault(f"{name} holds other values than were written", cut_short=False)
    return None


def listed(folder: Path) -> set[str]:
    """Names of the files in a checkpoint's manifest; none where there is no manifest."""
    try:
        return set(_entries((folder / MANIFEST).read_text(encoding="utf-8")) or ())
    except (OSError, ValueError):
        return set()


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoint folders in a folder, by step."""
    inside = list(folder.iterdir()) if folder.is_dir() else []
    folders = [path for path in inside if _CHECKPOINT.match(path.name) and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]))


def resume_point(
    folder: Path, find: Callable[[Path], Fault | None] = find_fault
) -> tuple[Path | None, list[tuple[Path, Fault]]]:
    """The newest whole checkpoint in a folder, or None, and those that are newer than it and not whole.

    Args:
        folder: with checkpoints.
        find: says why one is not whole.

    Raises:
        TapertuneError: there are checkpoints and none is whole. The first that a run writes may be cut short: it counts
            as none.
    """
    passed: list[tuple[Path, Fault]] = []
    for path in reversed(checkpoints(folder)):
        fault = find(path)
        if fault is None:
            return path, passed
        passed.append((path, fault))
    if len(passed) > 1 or any(not fault.cut_short for _, fault in passed):
        reasons = "; ".join(f"{path.name}: {fault.reason}" for path, fault in passed)
        raise TapertuneError(f"no checkpoint in {str(folder)!r} is whole, so nothing to resume from: {reasons}")
    return None, passed


def whole_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """The newest whole checkpoint of a Trainer with ``TapertuneCallback``, None where there is none yet:
    ``trainer.train(resume_from_checkpoint=whole_checkpoint(args.output_dir))``. A line of the log says which it passes
    over, and why.

    Args:
        output_dir: with ``checkpoint-*`` in it.

    Raises:
        TapertuneError: there are checkpoints, and none is whole.
    """
    path, passed = resume_point(Path(output_dir))
    for other, fault in passed:
        _log.warning("%s is passed over: %s", other, fault.reason)
    return None if path is None else str(path)


def drop_older(checkpoint: Path, limit: int | None, best: str | None = None) -> None:
    """Deletes what a stopped run was about to delete when it had written a checkpoint: older ones that are too many.

    Args:
        checkpoint: that the run goes on from.
        limit: how many may stay; None or less than 1: all.
        best: one that stays whatever its age.
    """
    folders = checkpoints(checkpoint.parent)
    older = folders[: folders.index(checkpoint)] if checkpoint in folders else []
    for path in older[: max(0, len(older) + 1 - limit)] if limit is not None and limit > 0 else ():
        if best is None or not Path(best).exists() or not path.samefile(best):
            shutil.rmtree(path)


@contextmanager
def new_checkpoint(output_dir: str | os.PathLike[str], step: int) -> Iterator[Path]:
    """A checkpoint of a training loop of one's own, which counts when all of it is written, and not before.

    >>> with new_checkpoint("runs/loop", step) as folder:  # doctest: +SKIP
    ...     model.save_pretrained(folder)
    ...     save_state(controller, folder)
    ...     torch.save(optimizer.state_dict(), folder / "optimizer.pt")

    After any stop, ``whole_checkpoint("runs/loop")`` names the newest one that was written to its end.

    Args:
        output_dir: the run's folder, made where there is none.
        step: optimizer steps so far.

    Yields:
        ``checkpoint-<step>`` in it, empty. It is deleted again if the body fails.

    Raises:
        TapertuneError: the list of its files cannot be written.
        OSError: the folder cannot be made, or a file cannot be read again.
    """
    folder = Path(output_dir) / f"checkpoint-{step}"
    if folder.exists():
        shutil.rmtree(folder)  # of a process that was killed while it wrote, or from which a run has gone back
    folder.mkdir(parents=True)
    try:
        yield folder
        write_manifest(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _names(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and path.name != MANIFEST and not is_temporary(path.name):
            yield path.relative_to(folder).as_posix()


def _entry(path: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return {"size": size, "sha256": digest.hexdigest()}


def _digest(files: dict[str, Any]) -> str:
    """Of the list itself: an entry that is gone would else be a file that nobody misses."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _sync(folder: Path) -> None:
    """Has the names and contents of a checkpoint on the disk, where the system lets folders be opened."""
    for path in (*(folder / name for name in listed(folder)), folder):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            os.fsync(descriptor)
        except OSError:  # a file system without it
            pass
        finally:
            os.close(descriptor)


def _entries(text: str) -> dict[str, tuple[int, str]] | None:
    """Size and digest by name; None where the text is no manifest, or names something outside of its folder."""
    try:
        data = json.loads(text)
        if data["version"] != VERSION:
            return None
        if data.get("sha256", own := _digest(data["files"])) != own:  # an earlier version wrote none
            return None
        entries = {name: (entry["size"], entry["sha256"]) for name, entry in data["files"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    paths = [PurePosixPath(name) for name in entries]
    return None if any(path.is_absolute() or ".." in path.parts for path in paths) else entries
