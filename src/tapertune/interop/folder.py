"""Folders that appear whole or not at all; files of a folder from elsewhere, and JSON, with errors that name them."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import TapertuneError, bad_value
from ..permissions import usual_permissions

_LARGEST_JSON = 256 << 20  # an index of the largest public models has some 10 MB


def check_free(out: Path) -> None:
    """Raises TapertuneError where ``out`` is a file, or a folder with something in it."""
    if out.is_dir() and any(out.iterdir()):
        raise TapertuneError(f"{out} is not empty; name a new folder")
    if (out.exists() or out.is_symlink()) and not out.is_dir():
        raise TapertuneError(f"{out} is a file; name a new folder")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that becomes it at the end, and is gone if the body fails.

    Raises:
        TapertuneError: ``out`` is taken, or nothing can be written there.
    """
    check_free(out)
    temporary = out.parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        usual_permissions(temporary)
        if out.exists():
            out.rmdir()
        os.replace(temporary, out)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise TapertuneError(f"cannot write {out}: {error.strerror or error}") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_plain(name: object, where: str) -> str:
    """A file's name as another file gives it, if it is nothing but a name: no path can lead out of the folder.

    Raises:
        TapertuneError: it is no text, empty, or holds a separator, ``..`` or a character that no name has.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or any(c in "/\\:\0\r\n" for c in name):
        raise bad_value(where, name, "the plain name of a file in the same folder")
    return name


def check_inside(path: Path, *, follow: bool = False) -> None:
    """Refuses a file of a folder from elsewhere unless it is a regular file of that folder.

    The Hub's cache is a folder of links: what is in ``snapshots/REVISION`` may lie in ``blobs`` beside ``snapshots``.

    Args:
        path: of the file.
        follow: whether a link may lead anywhere, as one may that the user has named.

    Raises:
        TapertuneError: it cannot be read, is no regular file, or is a link that leads elsewhere.
    """
    try:
        found, folder = path.resolve(strict=True), path.parent.resolve(strict=True)
        mode = found.stat().st_mode
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        raise TapertuneError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    snapshots = next((f for f in (folder, *folder.parents) if f.name == "snapshots"), None)
    allowed = [folder] if snapshots is None else [snapshots, snapshots.parent / "blobs"]
    if not follow and not any(found.is_relative_to(place) for place in allowed):
        raise TapertuneError(f"{path} is a link that leads out of its folder, to {found}; put the file itself there")
    if not stat.S_ISREG(mode):
        raise TapertuneError(f"{path} is no regular file")


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object.

    Raises:
        TapertuneError: the file cannot be read, is a link out of its folder, or holds something else.
    """
    check_inside(path)
    try:
        size = path.stat().st_size
        if size > _LARGEST_JSON:
            raise TapertuneError(f"{path} has {size:,} bytes; JSON is read up to {_LARGEST_JSON:,}")
        value = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # escapes may hold halves of characters
    except OSError as error:
        raise TapertuneError(f"cannot read {path}: {error.strerror or error}") from error
    except RecursionError as error:
        raise TapertuneError(f"{path} is nested too deeply") from error
    except ValueError as error:
        if isinstance(error, TapertuneError):
            raise
        raise TapertuneError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise TapertuneError(f"{path} holds no JSON object")
    return value


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
