"""The run folder: may it be written to, where does a resumed run go on, and what of it is ours to delete."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..adapt.plan import present_names
from ..errors import TapertuneError
from ..files import drop_temporaries, is_temporary, read_json_object, usual_permissions
from ..integrations.manifest import MANIFEST, Fault, checkpoints, find_fault, listed, resume_point
from ..integrations.same_run import SPLIT
from ..lock import FORMER, LOCK
from ..redaction import is_secret
from ..runfile.arguments import AUTO
from ..runfile.record import FILE, read_record
from ..runfile.settings import RunSettings, check_settings

EVENTS = "events.jsonl"
MARK = "tapertune_run.json"  # in a checkpoint, and in its manifest: one without it was cut short
MARK_VERSION = 2  # of the first, checkpoints have no manifest
ASIDE = ".tapertune.replaced"  # what --overwrite replaces, until the new run has a whole checkpoint
MOVING = ".tapertune.moving"  # the same, while it is moved
SAVING = ".saving"
_RATE = "training.learning_rate"
_SPLIT = {f"training.{name}" for name in SPLIT}
_OURS = {
    FILE, EVENTS, "task.json", "adapter_config.json", "adapter_model.safetensors", "README.md", "trainer_state.json",
    "all_results.json", "report.html", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "vocab.txt", "added_tokens.json", "spm.model", "merges.txt", "vocab.json",
}  # fmt: skip
# what a run may leave behind that was killed before it could write its record
_LEFTOVERS = {LOCK, FORMER, ASIDE, MOVING, SAVING, EVENTS}


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
    everything = {path.name for path in folder.iterdir()} if folder.exists() else set()
    inside = sorted(name for name in everything - _LEFTOVERS if not is_temporary(name))
    if not inside and not everything & {ASIDE, MOVING}:
        return
    if inside and FILE not in inside and not everything & {ASIDE, MOVING}:
        raise TapertuneError(
            f"output_dir {str(folder)!r} holds files that are no run's, such as {inside[0]!r}: choose another"
        )
    if not overwrite and not _ended_before_its_first_checkpoint(folder):
        raise TapertuneError(
            f"output_dir {str(folder)!r} holds another run: choose another, or go on with --resume, or --overwrite it"
        )


def _ended_before_its_first_checkpoint(folder: Path) -> bool:
    """Whether a folder's run has nothing to lose: it is not done, and was stopped before it wrote a checkpoint."""
    try:
        done = read_record(folder).status == "done"
    except TapertuneError:
        return False
    return not done and all(map(is_cut_short, checkpoints(folder))) and not (folder / ASIDE).exists()


def check_resume(folder: Path, settings: RunSettings) -> tuple[Path | None, list[str]]:
    """The checkpoint that a run goes on from, None when it was stopped before its first; and what to tell of it.

    Raises:
        TapertuneError: there is no run, it is done, its settings were others, or none of its checkpoints is whole. How
            batches are split over processes and passes may be other than then: that they are of the same size is
            checked where the run goes on.
    """
    if not (folder / FILE).is_file():
        raise TapertuneError(f"nothing to resume: {str(folder)!r} holds no run")
    record = read_record(folder)
    if record.status == "done":
        drop_temporaries(folder)  # of a process that was killed behind its last step
        raise TapertuneError(f"nothing to resume: the run in {str(folder)!r} is done")
    # checked anew: a run of an earlier version knows nothing of later settings, which are then as they are by default
    old, new = (_comparable(each) for each in (check_settings(record.settings), settings))
    if record.learning_rate is None and new.get(_RATE) == AUTO != old.get(_RATE):
        # of an earlier version, whose default was a number: the run goes on at that
        new[_RATE] = settings.training["learning_rate"] = old[_RATE]
    keys = {key for key in {*old, *new} if key not in ("output_dir", "threads") and not is_secret(key)}
    changed = sorted(key for key in keys if old.get(key) != new.get(key))
    if record.trained_on is not None and set(changed) <= _SPLIT:
        changed = []  # their product is what counts, and is compared with that
    if changed:
        shown = ", ".join(f"{key} (was {old.get(key)!r}, is {new.get(key)!r})" for key in changed)
        raise TapertuneError(f"cannot resume {str(folder)!r} with other settings: {shown}")
    checkpoint, passed = resume_point(folder, find_run_fault)
    notes = [f"{path.name} is passed over: {fault.reason}" for path, fault in passed]
    if checkpoint is None:
        notes.append(f"{str(folder)!r} holds no whole checkpoint yet: the run begins anew, at step 0")
    elif passed:
        notes.append(f"the run goes on from {checkpoint.name}")
    return checkpoint, notes


def find_run_fault(checkpoint: Path) -> Fault | None:
    """Why a run's checkpoint is not whole; None where it is."""
    if is_cut_short(checkpoint):
        return Fault("it was cut short while it was written", cut_short=True)
    return None if _has_no_manifest(checkpoint) else find_fault(checkpoint)


def is_cut_short(checkpoint: Path) -> bool:
    """Whether a checkpoint was not written to its end. One whose manifest is damaged was."""
    if (checkpoint / MANIFEST).exists():
        fault = find_fault(checkpoint, deep=False)
        return MARK not in listed(checkpoint) and (fault is None or fault.cut_short)
    return not _has_no_manifest(checkpoint)


def _has_no_manifest(checkpoint: Path) -> bool:
    """Whether a checkpoint is of an earlier version, which marked it and wrote no manifest."""
    try:
        return read_json_object(checkpoint / MARK)["version"] < MARK_VERSION
    except (TapertuneError, TypeError, KeyError):
        return False


def clear(folder: Path) -> None:
    """Deletes a run's files from its folder, and nothing else."""
    for path in run_files(folder):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def run_files(folder: Path) -> list[Path]:
    """A run's files and checkpoints in its folder; its record is the last."""
    inside = sorted(folder.iterdir(), key=lambda path: (path.name == FILE, path.name)) if folder.exists() else []
    ours = [path for path in inside if path.name in _OURS and path.is_file()]
    return [*checkpoints(folder), *ours]


def drop_partial_checkpoints(folder: Path) -> None:
    """Deletes checkpoints that were cut short while they were written."""
    for path in checkpoints(folder):
        if is_cut_short(path):
            shutil.rmtree(path)


def drop_checkpoints_after(folder: Path, checkpoint: Path | None) -> None:
    """Deletes the checkpoints that a resumed run writes again: all that are newer than the one that it goes on from."""
    folders = checkpoints(folder)
    for path in folders[folders.index(checkpoint) + 1 if checkpoint in folders else 0 :]:
        shutil.rmtree(path)


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that were written to the end and are as they were written, by step."""
    return [path for path in checkpoints(folder) if find_run_fault(path) is None]


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
