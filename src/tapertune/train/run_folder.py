"""The run folder: may it be written to, where does a resumed run go on, and what of it is ours to delete."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from ..adapt.plan import present_names
from ..errors import TapertuneError
from ..files import usual_permissions
from ..redaction import is_secret
from ..runfile.arguments import AUTO
from ..runfile.record import FILE, read_record
from ..runfile.settings import RunSettings, check_settings

EVENTS = "events.jsonl"
MARK = "tapertune_run.json"  # written last into a checkpoint: one without it was cut short
_RATE = "training.learning_rate"
_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
_OURS = {
    FILE, EVENTS, "task.json", "adapter_config.json", "adapter_model.safetensors", "README.md", "trainer_state.json",
    "all_results.json", "report.html", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "vocab.txt", "added_tokens.json", "spm.model", "merges.txt", "vocab.json",
}  # fmt: skip


def check_new(folder: Path, *, overwrite: bool) -> None:
    """May a new run be written here?

    Raises:
        TapertuneError: the folder holds another run (and ``overwrite`` is off), or files that are no run's.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise TapertuneError(f"output_dir is {str(folder)!r}, and {str(there)!r} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise TapertuneError(f"output_dir is {str(folder)!r}, and {str(there)!r} may not be written to")
    inside = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if not inside:
        return
    if FILE not in inside:
        raise TapertuneError(
            f"output_dir {str(folder)!r} holds files that are no run's, such as {inside[0]!r}: choose another"
        )
    if not overwrite:
        raise TapertuneError(
            f"output_dir {str(folder)!r} holds another run: choose another, or go on with --resume, or --overwrite it"
        )


def check_resume(folder: Path, settings: RunSettings) -> Path | None:
    """The checkpoint that a run goes on from; None when it was stopped before its first.

    Raises:
        TapertuneError: there is no run, it is done, or its settings were others.
    """
    if not (folder / FILE).is_file():
        raise TapertuneError(f"nothing to resume: {str(folder)!r} holds no run")
    record = read_record(folder)
    if record.status == "done":
        raise TapertuneError(f"nothing to resume: the run in {str(folder)!r} is done")
    # checked anew: a run of an earlier version knows nothing of later settings, which are then as they are by default
    old, new = (_comparable(each) for each in (check_settings(record.settings), settings))
    if record.learning_rate is None and new.get(_RATE) == AUTO != old.get(_RATE):
        # of an earlier version, whose default was a number: the run goes on at that
        new[_RATE] = settings.training["learning_rate"] = old[_RATE]
    keys = {key for key in {*old, *new} if key != "output_dir" and not is_secret(key)}
    changed = sorted(key for key in keys if old.get(key) != new.get(key))
    if changed:
        shown = ", ".join(f"{key} (was {old.get(key)!r}, is {new.get(key)!r})" for key in changed)
        raise TapertuneError(f"cannot resume {str(folder)!r} with other settings: {shown}")
    whole = whole_checkpoints(folder)
    return whole[-1] if whole else None


def clear(folder: Path) -> None:
    """Deletes a run's files from its folder, and nothing else."""
    for path in list(folder.iterdir()) if folder.exists() else []:
        if _CHECKPOINT.match(path.name) and path.is_dir():
            shutil.rmtree(path)
        elif path.name in _OURS and path.is_file():
            path.unlink()


def drop_partial_checkpoints(folder: Path) -> None:
    """Deletes checkpoints that were cut short while they were written."""
    for path in checkpoints(folder):
        if not (path / MARK).is_file():
            shutil.rmtree(path)


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoint folders, by step."""
    folders = (
        [path for path in folder.iterdir() if path.is_dir() and _CHECKPOINT.match(path.name)] if folder.exists() else []
    )
    return sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]))


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that were written to the end, by step."""
    return [path for path in checkpoints(folder) if (path / MARK).is_file()]


def move_into(source: Path, folder: Path, *, without: tuple[str, ...] = ()) -> None:
    """Moves files from a temporary folder inside into place, each whole."""
    usual_permissions(source)
    for path in sorted(source.iterdir()):
        if path.name not in without:
            os.replace(path, folder / path.name)
    shutil.rmtree(source)


def _comparable(settings: RunSettings) -> dict[str, Any]:
    """Settings as JSON values by dotted name, each by its present name."""
    values = settings.resolved()
    return _flat(json.loads(json.dumps({**values, "plan": present_names(values["plan"])})))


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
