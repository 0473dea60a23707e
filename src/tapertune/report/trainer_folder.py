"""The folder that transformers' Trainer leaves with ``TapertuneCallback``: events, an adapter, the trainer's state, and
no ``run.json``. What a record would say is put together from these."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import TapertuneError
from ..events import Event, is_number
from ..files import read_json

STATE, ADAPTER, WEIGHTS = "trainer_state.json", "adapter_config.json", "adapter_model.safetensors"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def is_trainer_folder(folder: Path) -> bool:
    """Whether events are there and what Trainer leaves beside them, and no record says what the run was."""
    if (folder / "run.json").exists() or not (folder / "events.jsonl").is_file():
        return False
    return any((place / name).is_file() for place in (folder, *_checkpoints(folder)) for name in (STATE, ADAPTER))


def record_of(folder: Path, events: Sequence[Event]) -> dict[str, Any]:
    """A record without settings, hardware and times: of these the folder does not tell."""
    places = [folder, *reversed(_checkpoints(folder))]
    state, adapter = (_first(places, name) for name in (STATE, ADAPTER))
    ended = any(event["type"] == "end" for event in events)
    record: dict[str, Any] = {"schema_version": 1, "status": "done" if ended else _status(state)}
    base = adapter.get("base_model_name_or_path")
    if isinstance(base, str) and base:
        record["model"] = base
    if isinstance(adapter.get("task_type"), str):
        record["task"] = adapter["task_type"]
    weights = next((place / WEIGHTS for place in places if (place / WEIGHTS).is_file()), None)
    if weights is not None:
        record["adapter_bytes"] = weights.stat().st_size
    step = state.get("global_step")
    if isinstance(step, int) and not isinstance(step, bool):
        record["steps"] = step
    score = _score(events)
    return record if score is None else {**record, "score": score}


def _checkpoints(folder: Path) -> list[Path]:
    found = {int(match[1]): path for path in folder.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))}
    return [found[step] for step in sorted(found)]


def _first(places: Sequence[Path], name: str) -> Mapping[str, Any]:
    """The file of that name in the first place that has a whole one."""
    for place in places:
        try:
            value = read_json(place / name) if (place / name).is_file() else None
        except TapertuneError:
            continue
        if isinstance(value, Mapping):
            return value
    return {}


def _status(state: Mapping[str, Any]) -> str:
    reached, planned = (state.get(name) for name in ("global_step", "max_steps"))
    if not (isinstance(reached, int) and isinstance(planned, int)):
        return "running"
    return "done" if 0 < planned <= reached else "running"


def _score(events: Sequence[Event]) -> dict[str, Any] | None:
    """The last evaluation's first metric that is no loss, else the loss."""
    last = next((event.get("metrics") for event in reversed(events) if event["type"] == "eval"), None) or {}
    values = {name: value for name, value in last.items() if is_number(value)}
    names = [name for name in values if name != "loss"] or list(values)
    return {"metric": names[0], "value": float(values[names[0]])} if names else None
