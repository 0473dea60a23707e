"""What ``--overwrite`` replaces: kept aside in the run's folder until the new run has a whole checkpoint, or is done.

All moves are renames inside the folder. While files are on their way, they lie under a second name, from which they
always go back: so it is known at every moment, whatever kills the process, which run the files beside them are of.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .run_folder import ASIDE, MOVING, clear, run_files, whole_checkpoints


def set_aside(folder: Path) -> None:
    """Moves a run's files aside."""
    files = run_files(folder)
    if not files:
        return
    (folder / MOVING).mkdir()
    for path in files:
        os.rename(path, folder / MOVING / path.name)
    os.rename(folder / MOVING, folder / ASIDE)


def put_back(folder: Path) -> bool:
    """Puts the earlier run back in place of the new one, whose files are deleted; whether there was an earlier one."""
    if (folder / ASIDE).is_dir():
        clear(folder)
        os.rename(folder / ASIDE, folder / MOVING)
    if not (folder / MOVING).is_dir():
        return False
    for path in run_files(folder / MOVING):
        os.rename(path, folder / path.name)
    (folder / MOVING).rmdir()
    return True


def drop_aside(folder: Path) -> None:
    """Deletes the earlier run."""
    shutil.rmtree(folder / ASIDE, ignore_errors=True)


def recover(folder: Path, *, resume: bool) -> None:
    """Brings a folder in order whose last run was killed while it replaced another.

    Args:
        folder: that nobody else writes to.
        resume: whether the new run is to go on, so that it keeps its place.
    """
    if (folder / ASIDE).is_dir() and whole_checkpoints(folder):
        drop_aside(folder)
    elif not (resume and (folder / ASIDE).is_dir() and run_files(folder)):
        put_back(folder)
