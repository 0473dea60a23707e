"""The head of a run's card, as the Hub reads it: put together and checked by huggingface_hub's own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..interop.hub import is_hub_name, licence_of
from ..runfile.record import Record
from ..runfile.settings import BASELINES
from ..tasks import TASKS, Task
from ..tasks.data import SAMPLE
from ..tasks.summarisation import SUMMARISATION
from .gguf import SMOLLM2
from .models import MINILM

HUB_NAMES = {MINILM: "sentence-transformers/all-MiniLM-L6-v2", SMOLLM2: "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""What the packages' models are called on the Hub."""
_PIPELINES = {
    **dict.fromkeys(("classification", "multi_label_classification", "regression"), "text-classification"),
    "token_classification": "token-classification",
    "question_answering": "question-answering",
    "causal_lm": "text-generation",
}


def metadata(record: Record, task: Task, base: str) -> str:
    """The YAML between the marks.

    Names that the Hub does not know are left out: a base model in a folder, files of the user's own as a data set.
    Scores on such, and on a part of a split, are no ``model-index``; they stand in the text. ``.eval_results`` are for
    the Hub's registered benchmarks, which none of the tasks here is.

    Args:
        record: of a run that is done.
        task: its task.
        base: what the base model was loaded from.
    """
    name = hub_name(record.model)
    dataset = _dataset(record, task)
    whole = dataset is not None and _is_whole(record)
    pipeline = "summarization" if task.name in {each.name for each in SUMMARISATION} else _PIPELINES.get(task.kind)
    adapter = record.method not in BASELINES
    related: dict[str, Any] = {"base_model_relation": "adapter" if adapter else "finetune"} if name else {}
    data = ModelCardData(
        base_model=name,
        library_name="peft" if adapter else "transformers",
        license=licence_of(name or base),
        datasets=[dataset[0]] if dataset else None,
        metrics=list(task.metrics) or None,
        pipeline_tag=pipeline,
        tags=list(dict.fromkeys(["tapertune", record.method, *(["adapter"] if adapter else [])])),
        model_name=_model_name(record.name) if whole else None,
        eval_results=_results(record, task, pipeline, dataset) if whole else None,
        **related,
    )
    return data.to_yaml() + "\n"


def hub_name(model: str) -> str | None:
    """A run's base model by its name on the Hub; None for a folder."""
    model = HUB_NAMES.get(model, model)
    return model if is_hub_name(model) else None


def _dataset(record: Record, task: Task) -> tuple[str, str | None] | None:
    """Name and configuration on the Hub of the data set that was trained on."""
    known = task.hub or (TASKS[task.name].hub if task.name in TASKS else None)
    return None if known is None or not is_hub_name(known[0]) else (known[0], known[1] or None)


def _is_whole(record: Record) -> bool:
    """Whether all rows of the split were scored: no sample of them, no first few, no share of the training file."""
    block = record.settings.get("task") or {}
    share = isinstance(block.get("validation"), float)
    return block.get("data") != SAMPLE and not block.get("validation_rows") and not share


def _model_name(name: str) -> str:
    return Path(name).name or "run"


def _results(record: Record, task: Task, pipeline: str | None, dataset: tuple[str, str | None] | None) -> Any:
    assert dataset is not None and record.metrics is not None
    fields = {
        "task_type": pipeline or "text-generation",
        "dataset_type": dataset[0],
        "dataset_name": task.title or task.name,
        "dataset_config": dataset[1],
        "dataset_split": task.evaluation[0],
    }
    return [
        EvalResult(**fields, metric_type=name, metric_name=name, metric_value=record.metrics[name])  # type: ignore[arg-type]
        for name in task.metrics
        if name in record.metrics
    ]
