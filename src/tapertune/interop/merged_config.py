"""The merged model's config: its class, and the names of its classes in their order, for plain transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .folder import read_foreign_json
from .placement import Job
from .saved import SavedAdapter
from .side_files import TASK_FILE

_PROBLEMS = ("single_label_classification", "multi_label_classification")


def describe(job: Job, adapter: SavedAdapter, folder: Path) -> None:
    """Gives the job's config ``architectures`` and, for a classifier, ``id2label``, ``label2id`` and ``problem_type``.

    Raises:
        TapertuneError: the adapter's ``task.json`` cannot be read.
    """
    architecture = job.architecture
    if architecture is None or job.partial or not (job.added or job.replaced):
        return  # nothing trained beside the adapter, or a part of the base's own class
    job.config["architectures"] = [architecture.name]
    count = architecture.labels_of(adapter.extras)
    if count is None:
        return
    labels = _labels(folder)
    if labels and len(labels) != count:
        job.warnings.append(f"{TASK_FILE} names {len(labels)} classes, the head has {count}: names are left out")
        labels = []
    names = labels or _own_names(job.config, count)
    job.config |= {"id2label": {str(i): name for i, name in enumerate(names)}}
    job.config |= {"label2id": {name: i for i, name in enumerate(names)}}
    job.config.pop("num_labels", None)  # the tables tell; two sources may disagree
    if architecture.name.endswith("ForSequenceClassification") and labels:
        known = _task(folder).get("problem_type")
        job.config["problem_type"] = known if known in _PROBLEMS else "single_label_classification"
    elif count == 1 and not labels:
        job.config["problem_type"] = "regression"


def _task(folder: Path) -> dict[str, Any]:
    return read_foreign_json(folder / TASK_FILE) if (folder / TASK_FILE).exists() else {}


def _labels(folder: Path) -> list[str]:
    labels = _task(folder).get("labels")
    return [str(label) for label in labels] if isinstance(labels, list) else []


def _own_names(config: dict[str, Any], count: int) -> list[str]:
    """The config's names where they are of this many classes, else numbered ones."""
    own = config.get("id2label")
    names = [own.get(str(i)) for i in range(count)] if isinstance(own, dict) and len(own) == count else []
    return [str(name) for name in names] if names and None not in names else [f"LABEL_{i}" for i in range(count)]
