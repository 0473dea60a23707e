"""Checks all of a run before it begins: settings against data and model, data row by row."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..adapt.plan import Plan
from ..errors import TapertuneError, unknown
from ..host import ChainLayer, Coverage, coverage, find_config
from ..host.ranks import width_remark
from ..integrations.trainer import check_cache
from ..methods.rates import SuggestedRate
from ..runfile.arguments import AUTO
from ..runfile.older_transformers import TrainingArguments
from ..runfile.settings import BASELINES, RunSettings, adapter_config
from ..tasks import Task, data
from ..tasks.cache import encode_cached
from ..tasks.counts import Counts, check_trains, counts_of, notes
from ..tasks.encode import check_length, encode
from ..tasks.files import Table
from ..tasks.kinds import Encoded, get_kind
from ..tasks.stream import Stream
from . import distributed
from .distributed import check_own_parameters, check_unsharded
from .models import Built, build
from .packing import is_packed, pack
from .rates import rule_of_run
from .suppress_logging import suppress_logging
from .trainer import total_steps


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that is checked and ready to train.

    Attributes:
        counts: what became of the rows of each split that is in memory.
        notes: what the user should know of them.
        rule: the learning rate that the method's rule gives; the run's own, where it is ``auto``.
        loss: to train by, in place of the model's own.
        coverage: what of the model is under the adapter; None without one.
    """

    settings: RunSettings
    task: Task
    built: Built
    train: Encoded | Stream
    evaluation: dict[str, Encoded]
    args: TrainingArguments
    counts: dict[str, Counts] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rule: SuggestedRate
    loss: Any = None
    coverage: Coverage | None = None


def prepare(settings: RunSettings, rule: SuggestedRate | None = None) -> Prepared:
    """Loads data and model.

    Args:
        settings: the run's.
        rule: what the rule said when the run began, if it goes on; else it is asked.

    Raises:
        TapertuneError: something does not fit; nothing has been written.
    """
    check_unsharded(settings.training, os.environ)
    if _plans(settings):
        check_own_parameters(settings.method.name, settings.training, os.environ)
    block = settings.task
    args = _arguments(settings)
    loaded = data.load(
        block.declaration(),
        data=block.data,
        train=block.train,
        validation=block.validation,
        train_rows=block.train_rows,
        validation_rows=block.validation_rows,
        skip_bad_rows=block.skip_bad_rows,
        stream=block.stream,
        form=block.form,
    )
    _check_best(loaded.task, args)
    _check_early_stopping(settings, args)
    _check_plan(settings, total_steps(args, 1 if isinstance(loaded.train, Table) else len(loaded.train)))
    built = build(settings, loaded.task)
    check_model_length(settings.model, built.model, loaded.task.max_length)
    if settings.cache is not None:
        check_cache(settings.cache.settings(), built.model, args)
    task, tokenizer = loaded.task, built.tokenizer
    train = _training_rows(settings, task, loaded.train, tokenizer, args, built.model)
    if isinstance(train, Encoded):  # windows: more features than rows
        _check_plan(settings, total_steps(args, len(train)))
    if rule is None:
        rule = rule_of_run(settings, built, args, total_steps(args, len(train) if isinstance(train, Encoded) else 1))
    if settings.training["learning_rate"] == AUTO:
        args.learning_rate = float(rule)
    evaluation = {
        name: encode(task, split.examples, tokenizer, task.max_length, train=False)
        for name, split in loaded.evaluation.items()
    }
    splits: dict[str, tuple[data.Split, Encoded]] = {}
    if isinstance(loaded.train, data.Split) and isinstance(train, Encoded):
        splits["train"] = loaded.train, train
    splits |= {name: (split, evaluation[name]) for name, split in loaded.evaluation.items()}
    return Prepared(
        settings=settings,
        task=task,
        built=built,
        train=train,
        evaluation=evaluation,
        args=args,
        counts={name: counts_of(encoded, split.bad) for name, (split, encoded) in splits.items()},
        notes=_rank_notes(settings, built)
        + [note for name, pair in splits.items() for note in data_notes(task, *pair, train=name == "train")]
        + loaded.notes,
        rule=rule,
        loss=_training_loss(settings, task, train, args),
        coverage=_coverage(settings, built),
    )


def _training_loss(settings: RunSettings, task: Task, train: Encoded | Stream, args: TrainingArguments) -> Any:
    """The loss to train by in place of the model's own, if there is one.

    Raises:
        TapertuneError: it cannot be combined with what the run asks for.
    """
    loss = get_kind(task.kind).training_loss(task, train if isinstance(train, Encoded) else None)
    if loss is not None and args.label_smoothing_factor:
        raise TapertuneError("task.class_weights and training.label_smoothing_factor exclude each other")
    return loss


def _coverage(settings: RunSettings, built: Built) -> Coverage | None:
    """What of the model is under the adapter.

    Raises:
        TapertuneError: nothing that is computed is.
    """
    if settings.method.name in BASELINES:
        return None
    covered = coverage(built.model)
    covered.check()
    return covered


def _rank_notes(settings: RunSettings, built: Built) -> list[str]:
    """What to tell of the adapter's ranks."""
    if settings.method.name in BASELINES:
        return []
    layers = {
        layer.module_path: layer.get_base_layer() for layer in built.model.modules() if isinstance(layer, ChainLayer)
    }
    config = find_config(built.model, "default")
    remark = width_remark(config, layers)
    return [] if remark is None else [f"method.{remark}"]


def data_notes(task: Task, split: data.Split, encoded: Encoded, *, train: bool = False) -> list[str]:
    """What to tell of a split: rows left out, rows cut."""
    bad = [split.skipped] if split.skipped else []
    return bad + notes(task, split.name, counts_of(encoded, split.bad), train=train)


def check_model_length(name: str, model: Any, length: int) -> None:
    """Raises TapertuneError if the model reads fewer tokens than that."""
    limit = getattr(model.config, "max_position_embeddings", None) or length
    if length > limit:
        raise TapertuneError(f"task.max_length is {length}; it must be at most {limit} for {name!r}")


def _training_rows(
    settings: RunSettings, task: Task, rows: data.Split | Table, tokenizer: Any, args: TrainingArguments, model: Any
) -> Encoded | Stream:
    if isinstance(rows, data.Split):
        encoded = encode_cached(task, rows.examples, tokenizer, task.max_length)
        check_trains(task, rows.name, counts_of(encoded, rows.bad))
        return pack(task, encoded, model, args.train_batch_size)
    if is_packed(task):
        raise TapertuneError("task.packing and task.stream exclude each other: rows of a stream are not packed")
    check_length(tokenizer, task.max_length)
    stream = Stream(
        task,
        rows,
        tokenizer,
        batch=args.train_batch_size,
        seed=args.seed if args.data_seed is None else args.data_seed,
        skip_bad_rows=settings.task.skip_bad_rows,
    )
    stream.check()
    return stream


def _arguments(settings: RunSettings) -> TrainingArguments:
    fixed = {"output_dir": settings.output_dir, "seed": settings.seed, "disable_tqdm": True}
    usual: dict[str, Any] = {"report_to": "none", "dataloader_pin_memory": torch.cuda.is_available()}
    if distributed.on_processors():
        usual["use_cpu"] = True
    try:
        with suppress_logging():
            args = TrainingArguments(**{**usual, **_training(settings), **fixed})
    except (ValueError, ImportError) as error:
        raise TapertuneError(f"training: {str(error).strip().splitlines()[0]}") from error
    if not settings.task.stream:
        return args
    if args.max_steps <= 0:
        raise TapertuneError("task.stream needs training.max_steps: how many rows there are is not known beforehand")
    # A stream has its own order; Trainer would warn that it cannot group it.
    args = replace(args, train_sampling_strategy="random")
    # Each process reads the rows itself: batches made for another one would be padded to that one's lengths.
    config: Any = args.accelerator_config
    config.dispatch_batches = False
    return args


def _training(settings: RunSettings) -> dict[str, Any]:
    """The block without a rate that is not known yet."""
    return {key: value for key, value in settings.training.items() if (key, value) != ("learning_rate", AUTO)}


def _check_best(task: Task, args: TrainingArguments) -> None:
    """Is the metric that checkpoints are compared by one of the evaluation's?"""
    wanted = args.metric_for_best_model
    names = [*get_kind(task.kind).metric_names(task), "loss"]
    if wanted is not None and wanted.removeprefix("eval_") not in names:
        raise unknown("training.metric_for_best_model", wanted, names)


def _check_early_stopping(settings: RunSettings, args: TrainingArguments) -> None:
    """Is there something to see that training may end?"""
    if settings.early_stopping is None:
        return
    if args.metric_for_best_model is None:
        raise TapertuneError("early_stopping needs training.metric_for_best_model, such as loss")
    if str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "no":
        raise TapertuneError("early_stopping needs evaluations: training.eval_strategy is 'no', must be steps or epoch")


def _check_plan(settings: RunSettings, steps: int) -> None:
    for plan in _plans(settings):
        plan.schedule.check(steps)


def _plans(settings: RunSettings) -> list[Plan]:
    return [] if settings.method.name in BASELINES else adapter_config(settings).resolved_plans()
