"""A controller's state on disk: one safetensors file, the plain values in its header."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..adapt import Controller
from ..errors import TapertuneError
from ..files import parse_json, whole_file
from .manifest import find_fault
from .state_fields import check_fields

STATE_FILE = "tapertune_state.safetensors"


def save_state(controller: Controller, folder: str | os.PathLike[str], **others: Any) -> Path:
    """Writes the controller's state into a folder, whole or not at all.

    Args:
        controller: whose.
        folder: that is there.
        **others: JSON values to keep beside it; ``read_state`` returns them under ``json``.
    """
    state = controller.state_dict()
    path = Path(folder) / STATE_FILE
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state["tensors"].items()}
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata={"tapertune": json.dumps({**state["json"], **others})})
    controller.saved_in = str(folder)
    if controller.cache is not None:
        controller.cache.save()
    return path


def read_state(folder: str | os.PathLike[str]) -> dict:
    """What ``save_state`` wrote, for ``Controller.load_state_dict``.

    Raises:
        TapertuneError: there is no such file, or it is cut short or not ours.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise TapertuneError(f"{path} is missing: the folder is not a checkpoint of a run with tapertune's callback")
    try:
        with safe_open(path, framework="pt") as file:
            values = parse_json((file.metadata() or {})["tapertune"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, OSError) as error:
        raise TapertuneError(f"{path} is not a whole state file ({error})") from error
    check_fields(values, str(path))
    return {"tensors": tensors, "json": values}


def restore(controller: Controller, folder: str | os.PathLike[str]) -> None:
    """Lets a controller go on from a checkpoint folder.

    Raises:
        TapertuneError: as ``read_state``, and where the state is of another run; or the folder is none of those that
            were written to their end, or a file of it has changed since.
    """
    fault = find_fault(Path(folder))
    if fault is not None and not fault.cut_short:  # a folder of one's own has no manifest
        raise TapertuneError(f"cannot go on from {str(folder)!r}: {fault.reason}")
    controller.load_state_dict(read_state(folder))
    controller.saved_in = str(folder)
