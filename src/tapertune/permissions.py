"""Permissions of written files: those that any new file of the folder gets."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def usual_permissions(folder: Path, name: str | None = None) -> None:
    """Gives a folder's own files, or the one of that name, the permissions that a new file gets there.

    safetensors writes under a temporary name that its owner alone may read and keeps that mode: a server under another
    account could not read the weights. Permissions that are wider already are left, and links are not followed.
    """
    probe = folder / f".permissions.tmp{os.getpid()}"
    try:
        descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except OSError:  # nothing can be written here: then nothing was
        return
    try:
        usual = os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)
        probe.unlink()
    for path in folder.iterdir() if name is None else [folder / name]:
        if path.is_file() and not path.is_symlink():
            mode = path.stat().st_mode & 0o777
            if mode | usual != mode:
                with suppress(OSError):  # not the owner: the file is none that was written just now
                    path.chmod(mode | usual)
