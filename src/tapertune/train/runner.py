"""One run: settings in, a run folder out. Everything is checked before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from ..errors import TapertuneError
from ..integrations.watch import LearningWatch
from ..methods.rates import SuggestedRate
from ..redaction import hide_in_text
from ..runfile import environment
from ..runfile.record import Parameters, Record, Rows, read_record, write_record
from ..runfile.settings import BASELINES, RunSettings
from ..tasks.kinds import get_kind
from ..tasks.stream import Stream
from . import distributed
from .baseline_events import BaselineEvents
from .finish import finish
from .measure import forward_of, metrics_of
from .prepare import Prepared, prepare
from .progress import Display
from .rates import rate_line, rate_of_record, record_of_rate
from .run_folder import check_new, check_resume, clear, drop_partial_checkpoints
from .suppress_logging import suppress_logging
from .trainer import Checkpointing, Clock, RunTrainer, load_costs


def run(
    settings: RunSettings, *, resume: bool = False, overwrite: bool = False, display: Display | None = None
) -> dict[str, Any]:
    """Trains, evaluates and writes the run folder.

    Args:
        settings: from ``load_settings``.
        resume: go on from the last whole checkpoint in the folder.
        overwrite: delete the run that the folder holds.
        display: shows progress.

    Returns:
        The content of ``run.json``.

    Raises:
        TapertuneError: settings, data or folder cannot be used; nothing is written then.
        KeyboardInterrupt: passed on after the state ``interrupted`` is written.
    """
    folder = Path(settings.output_dir)
    if resume and overwrite:
        raise TapertuneError("--resume and --overwrite exclude each other")
    checkpoint = check_resume(folder, settings) if resume else None
    if not resume:
        check_new(folder, overwrite=overwrite)
    prepared = prepare(settings, _rule_before(folder) if resume else None)
    record = _first_record(settings, prepared)
    distributed.wait()  # all have looked at the folder
    if distributed.is_first():
        _begin(folder, record, [*_noted(prepared.notes), *_of_rate(prepared)], resume=resume)
    distributed.wait()
    try:
        with suppress_logging():
            record = _train(prepared, record, folder, checkpoint, display)
    except KeyboardInterrupt:
        if distributed.is_first():
            drop_partial_checkpoints(folder)
            write_record(folder, record.model_copy(update={"status": "interrupted"}))
        raise
    except Exception as error:
        if distributed.is_first():
            reason = hide_in_text(f"{type(error).__name__}: {error}")
            write_record(folder, record.model_copy(update={"status": "failed", "error": reason}))
        raise
    if distributed.is_first():
        write_record(folder, record)
    distributed.wait()
    return record.model_dump(mode="json")


def _rule_before(folder: Path) -> SuggestedRate | None:
    """The rate that an earlier process began the run with."""
    kept = read_record(folder).learning_rate
    return None if kept is None else rate_of_record(kept)


def _begin(folder: Path, record: Record, lines: list[str], *, resume: bool) -> None:
    _tell(lines)
    if resume:
        drop_partial_checkpoints(folder)
    else:
        clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder, record)


def _tell(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def _noted(notes: list[str]) -> list[str]:
    return [f"note: {note}" for note in notes]


def _of_rate(prepared: Prepared) -> list[str]:
    line = rate_line(prepared.settings, prepared.rule)
    return [] if line is None else [line]


def _first_record(settings: RunSettings, prepared: Prepared) -> Record:
    return Record(
        status="running",
        name=settings.name,
        settings=settings.resolved(),
        method=settings.method.name,
        model=settings.model,
        task=settings.task.name,
        seed=settings.seed,
        versions=environment.versions(),
        hardware=environment.hardware(),
        git=environment.git_state(),
        rows={name: Rows(**asdict(counts)) for name, counts in prepared.counts.items()},
        learning_rate=record_of_rate(settings, prepared.rule),
    )


def _train(
    prepared: Prepared, record: Record, folder: Path, checkpoint: Path | None, display: Display | None
) -> Record:
    from tapertune import TapertuneCallback

    settings, built = prepared.settings, prepared.built
    sizes = {name: parameter.numel() for name, parameter in built.model.named_parameters()}
    head, adapter = (sum(sizes[name] for name in names) for names in (built.head, built.adapter))
    costs = load_costs(checkpoint)
    checkpointing = Checkpointing(costs)
    adapts = settings.method.name not in BASELINES
    watcher: Any = (
        TapertuneCallback(say=_warn) if adapts else BaselineEvents(folder, settings.method.name, adapter, head)
    )
    shown = [] if adapts else [LearningWatch(settings.method.name, prepared.rule, _warn)]
    shown += [] if display is None else [display]
    trainer = trainer_of(prepared, checkpointing, [watcher, Clock(costs), *shown])
    if display is not None:
        display.watch(watcher.progress if not adapts else lambda: watcher.controller.progress())
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        checkpointing.release()
    if isinstance(prepared.train, Stream):
        _tell(_noted(prepared.train.notes()) if distributed.is_first() else [])
        rows = {"train": Rows(**asdict(prepared.train.counts)), **(record.rows or {})}
        record = record.model_copy(update={"rows": rows})
    parameters = _counts(watcher.controller.summary() if adapts else None, adapter, head, built.base)
    return finish(prepared, trainer, record, costs, parameters, folder)


def trainer_of(prepared: Prepared, checkpointing: Checkpointing, callbacks: Sequence[TrainerCallback]) -> RunTrainer:
    """The trainer of a prepared run; these callbacks are called before ``checkpointing``."""
    # The adapter's start has drawn random numbers, how many differs by method; Trainer seeds anew when it is made.
    built = prepared.built
    trainer = RunTrainer(
        head=prepared.settings.head,
        head_names=built.head,
        costs=checkpointing.costs,
        checkpointing=checkpointing,
        model=built.model,
        args=prepared.args,
        train_dataset=prepared.train,
        eval_dataset=next(iter(prepared.evaluation.values())),
        processing_class=built.tokenizer,
        data_collator=get_kind(prepared.task.kind).collator(prepared.task, built.tokenizer, train=True),
        measure=lambda trainer, rows: metrics_of(prepared.task, forward_of(trainer), rows),
        callbacks=[*callbacks, checkpointing],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _counts(summary: dict[str, Any] | None, adapter: int, head: int, base: int) -> Parameters:
    if summary is None:
        return Parameters(start=adapter, average=adapter, end=adapter, head=head, base=base)
    outside = summary["other_trainable"]
    return Parameters(
        start=summary["trainable_start"] - outside,
        average=summary["trainable_average"] - outside,
        end=summary["trainable_end"] - outside,
        head=head,
        base=base,
    )
