"""Finds out what a folder with a trained model holds, and loads it: an adapter of any of PEFT's types, or a whole model
(merged, or trained without an adapter)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from ..errors import TapertuneError
from ..files import write_json
from ..host.loading import load_adapter
from ..host.module_names import ROOT
from ..interop.fields import check_type
from ..interop.folder import OURS, read_foreign_json
from ..interop.saved import read_config
from ..interop.tensors import read_safetensors
from ..runfile.blocks import TaskBlock
from ..runfile.record import FILE, read_record
from ..runfile.settings import RunSettings, check_settings
from ..tasks import Task
from ..tasks.classes import Label
from ..tasks.kinds import Forward, get_kind
from . import distributed
from .models import load_base
from .suppress_logging import suppress_logging

TASK_FILE = "task.json"
ADAPTER, MODEL = "adapter_config.json", "config.json"
_BATCH = 64
_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class TrainedFolder:
    """A folder with a trained model.

    Attributes:
        path: of the folder.
        settings: of the run that made it; None for a folder from elsewhere.
        labels: class names that it was trained with, if they are known.
        values: the same as the training file had them, if they were found there.
        metrics: those of its training, if they are known.
        base: what the base model is loaded from; the folder itself for a whole model.
    """

    path: Path
    settings: RunSettings | None
    labels: tuple[str, ...]
    values: tuple[Label, ...]
    metrics: tuple[str, ...]
    base: str

    @property
    def is_adapter(self) -> bool:
        return (self.path / ADAPTER).is_file()

    @property
    def batch_size(self) -> int:
        """Rows of a batch in the run's own evaluations."""
        return self.settings.training["per_device_eval_batch_size"] if self.settings else _BATCH

    def context(self) -> AbstractContextManager[Any]:
        """The precision of the run's own evaluations."""
        training = self.settings.training if self.settings else {}
        precision = next((kind for name, kind in _PRECISIONS.items() if training.get(name)), None)
        return nullcontext() if precision is None else torch.autocast(self.device.type, precision)

    @property
    def device(self) -> torch.device:
        """Where the model runs, as in its training: a device of this process's own, or the processor."""
        return distributed.join(cpu=self.settings is not None and bool(self.settings.training.get("use_cpu")))


def open_folder(path: Path, base: str | None = None) -> TrainedFolder:
    """What lies in a folder.

    Raises:
        TapertuneError: neither an adapter nor a model, a run that is not done, or an unknown base model.
    """
    if not path.is_dir():
        raise TapertuneError(f"no such folder: {str(path)!r}")
    adapter = (path / ADAPTER).is_file()
    if not adapter and not (path / MODEL).is_file():
        raise TapertuneError(f"{str(path)!r} holds neither an adapter ({ADAPTER}) nor a model ({MODEL})")
    settings = check_settings(read_record(path).settings) if (path / FILE).is_file() else None
    known = _read_task(path / TASK_FILE) if (path / TASK_FILE).is_file() else {}
    if not adapter:
        base = str(path)
    else:
        base = base or (settings.model if settings else _of_config(path, "base_model_name_or_path"))
    if not base:
        raise TapertuneError(f"the adapter in {str(path)!r} does not say what its base model is: name it with --base")
    labels, values, metrics = (tuple(known.get(name, ())) for name in ("labels", "values", "metrics"))
    return TrainedFolder(path=path, settings=settings, labels=labels, values=values, metrics=metrics, base=base)


def task_of(folder: TrainedFolder, block: TaskBlock | None) -> Task:
    """The task to evaluate on: the one given, or the one that the folder was trained on.

    Raises:
        TapertuneError: there is neither, or the names of its classes are nowhere to be found.
    """
    if block is None and folder.settings is None:
        raise TapertuneError(f"{str(folder.path)!r} does not say what task it was trained on: name it with --task")
    own = folder.settings.task if folder.settings else None
    chosen = block or own
    assert chosen is not None, "one of the two is there"
    task = chosen.declaration()
    if own is not None and own.name == task.name and not task.labels:
        return replace(task, labels=folder.labels, values=folder.values, metrics=folder.metrics or task.metrics)
    if not task.labels and task.kind.endswith("classification"):
        task = replace(task, labels=folder.labels or _labels_of_config(folder))
    return task


def load_trained(folder: TrainedFolder, task: Task, seed: int = 0) -> tuple[Any, Any]:
    """(model, tokenizer), ready to evaluate.

    Raises:
        TapertuneError: the model cannot be loaded or does not fit the task.
    """
    _check_trained_for(folder, task)
    dtype = folder.settings.dtype if folder.settings else "float32"
    quantization = folder.settings.quantization if folder.settings and folder.is_adapter else None
    device = folder.device  # known before: a quantised model is made where it stays
    model, tokenizer, fresh = load_base(folder.base, dtype, task, seed, quantization=quantization)
    if folder.is_adapter:
        if str(_of_config(folder.path, "peft_type")).startswith(OURS):
            read_config(folder.path)  # its fields have their types
        saved = _saved_names(folder.path)
        with suppress_logging():
            model = load_adapter(model, folder.path)
    else:
        saved = set()
        bad = next((name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())), None)
        if bad is not None and quantization is None:
            raise _not_finite(folder.path, bad)
    missing = [name for name in fresh if name not in saved]
    if missing:
        raise TapertuneError(
            f"{str(folder.path)!r} holds no trained weights for {missing[0]!r}, which task {task.name!r} needs: was it"
            " trained on another kind of task?"
        )
    return (model if quantization else model.to(device)).eval(), tokenizer


def _check_trained_for(folder: TrainedFolder, task: Task) -> None:
    """Raises TapertuneError if the folder's own files say that it was trained for another kind of task."""
    kind = get_kind(task.kind)
    known = _of_config(folder.path, "task_type") if folder.is_adapter else None
    if known not in (None, kind.task_type):
        raise TapertuneError(
            f"the adapter in {str(folder.path)!r} was trained for {known}; task {task.name!r} is {kind.task_type}"
        )
    wanted = kind.config(task).get("num_labels", len(task.labels))
    if folder.labels and wanted and len(folder.labels) != wanted:
        own = f"{len(folder.labels)} classes ({', '.join(folder.labels[:8])})"
        raise TapertuneError(f"{str(folder.path)!r} was trained on {own}; task {task.name!r} has {wanted}")


def forward_with(
    folder: TrainedFolder, model: Any, tokenizer: Any, batch_size: int | None, progress: Callable[[int], None]
) -> Forward:
    """Runs a loaded model."""
    size = batch_size or folder.batch_size
    return Forward(model=model, tokenizer=tokenizer, batch_size=size, context=folder.context, progress=progress)


def write_task(folder: Path, task: Task) -> None:
    """Keeps what training has found out of a task, for those who load the folder later."""
    names = {name: list(getattr(task, name)) for name in ("labels", "values", "metrics")}
    problem = get_kind(task.kind).config(task).get("problem_type")
    write_json(folder / TASK_FILE, {"name": task.name, **names, **({"problem_type": problem} if problem else {})})


def _read_task(path: Path) -> dict[str, Any]:
    """What ``write_task`` has kept.

    Raises:
        TapertuneError: a field is of another type.
    """
    known = read_foreign_json(path)
    for name, hint in (("labels", list[str]), ("values", list[Label]), ("metrics", list[str])):
        if name in known:
            check_type(path, name, known[name], hint)
    return known


def _of_config(path: Path, name: str) -> str | None:
    value = read_foreign_json(path / ADAPTER).get(name)
    check_type(path / ADAPTER, name, value, str | None)
    return value


def _saved_names(path: Path) -> set[str]:
    """Names in the base model of the whole weights that an adapter's file holds.

    Raises:
        TapertuneError: there is no such file, it is damaged, or it holds NaN or infinity.
    """
    weights = read_safetensors(path / "adapter_model.safetensors")
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise _not_finite(path, name)
    return {name.removeprefix(ROOT) for name in weights}


def _not_finite(path: Path, name: str) -> TapertuneError:
    return TapertuneError(f"the weights in {str(path)!r} are not finite, such as {name}: its training has diverged")


def _labels_of_config(folder: TrainedFolder) -> tuple[str, ...]:
    try:
        config = AutoConfig.from_pretrained(folder.base)
    except Exception as error:  # a file of somebody's, in which any field may have any type
        raise TapertuneError(f"the config of {folder.base!r} cannot be read: {error}") from error
    names = tuple(str(name) for _, name in sorted((config.id2label or {}).items()))
    if folder.is_adapter or all(name.startswith("LABEL_") for name in names):
        raise TapertuneError("the names of the classes are not known: list them with --task.labels, as in training")
    return names
