"""A controller's state on disk: one safetensors file, the plain values in its header."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..adapt import Controller
from ..errors import TapertuneError, shown
from ..files import parse_json, whole_file
from .manifest import find_fault

STATE_FILE = "tapertune_state.safetensors"


_Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Part(BaseModel):
    """Fields of a state by their types. Others are let through: what ``save_state`` is given, and later versions'."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Runner(_Part):
    watched: list[str]
    names: list[str]
    frozen: dict[str, _Count]
    total: _Count
    compacted: bool
    ranks: dict[str, _Count]
    sizes: dict[str, _Count] = {}
    removed: bool = False
    looked: int = 0


class _Trainer(_Part):
    losses: list[float | str] = Field(min_length=1)
    logged: _Count
    total: float | str
    epoch_ended: bool
    grad_norm: float | str | None
    learning_rate: float | None


class _State(_Part):
    version: _Count
    method: str
    plan: dict[str, Any] | list[dict[str, Any]] | None
    total_steps: _Count
    step: _Count
    runners: list[_Runner]
    trainable_start: _Count
    trainable_sum: _Count
    events: _Count | None
    started: list[str] = []
    has_gradients: bool = True
    finite: tuple[_Count, _Count] = (0, 0)
    optimizer: list[list[str | None]] | None = None
    run: dict[str, Any] = {}
    trainer: _Trainer | None = None


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
    try:
        _State.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if not str(part).endswith("]"))
        what = f"{field} is {shown(first['input'])}: {first['msg']}" if field else first["msg"]
        raise TapertuneError(f"{path} is not a whole state file ({what})") from error
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
