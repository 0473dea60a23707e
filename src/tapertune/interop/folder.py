"""Files of a folder from elsewhere, which may be made to mislead: their names, links and JSON."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from ..errors import TapertuneError, bad_value
from ..files import read_json_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter's folder."""

OURS = "TAPERTUNE_"
"""How ``peft_type`` begins in the configs of tapertune's methods."""


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


def read_foreign_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file from elsewhere.

    Raises:
        TapertuneError: the file cannot be read, is a link out of its folder, is larger than any such file, or holds
            something else, such as halves of characters.
    """
    check_inside(path)
    return read_json_object(path)
