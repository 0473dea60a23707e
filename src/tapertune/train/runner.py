"""One run: settings in, a run folder out. Everything is checked before anything is written."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from ..errors import TapertuneError
from ..files import drop_temporaries
from ..integrations.manifest import checkpoints
from ..integrations.same_run import check_facts
from ..integrations.watch import LearningWatch
from ..lock import check_free, locked
from ..methods.rates import SuggestedRate
from ..redaction import hide_in_text
from ..runfile import environment
from ..runfile.record import LayerCacheCounts, Parameters, Record, Rows, read_record, write_end, write_record
from ..runfile.settings import BASELINES, RunSettings
from ..tasks.kinds import get_kind
from ..tasks.stream import Stream
from . import distributed, threads
from .baseline_events import BaselineEvents
from .costs import load_costs
from .finish import finish
from .forecast import forecast_line, start_line
from .measure import forward_of, metrics_of
from .packing import is_packed
from .prepare import Prepared, prepare
from .progress import Display
from .rates import rate_line, rate_of_record, record_of_rate
from .replaced import drop_aside, put_back, recover, set_aside
from .run_folder import (
    ASIDE,
    SAVING,
    check_new,
    check_resume,
    clear,
    drop_checkpoints_after,
    drop_partial_checkpoints,
    is_cut_short,
    whole_checkpoints,
)
from .suppress_logging import suppress_logging
from .trained_on import trained_on
from .trainer import Checkpointing, Clock, RunTrainer

_RESULTS = ("adapter_model.safetensors", "model.safetensors")


def run(
    settings: RunSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
    free_threads: bool = False,
) -> dict[str, Any]:
    """Trains, evaluates and writes the run folder.

    Args:
        settings: from ``load_settings``.
        resume: go on from the last whole checkpoint in the folder.
        overwrite: replace the run that the folder holds, once this one has a whole checkpoint or is done.
        display: shows progress.
        free_threads: nobody has set how many threads this process computes with, so that ``threads: auto`` may.

    Returns:
        The content of ``run.json``.

    Raises:
        TapertuneError: settings, data or folder cannot be used; nothing is written then.
        KeyboardInterrupt: passed on after the state ``interrupted`` is written, with what to do next as its text;
            ``Terminated`` after SIGTERM, for which training writes a checkpoint.
    """
    folder = Path(settings.output_dir)
    if resume and overwrite:
        raise TapertuneError("--resume and --overwrite exclude each other")
    _look(folder, resume=resume, overwrite=overwrite)
    checkpoint, notes = check_resume(folder, settings) if resume else (None, [])
    with threads.kept():
        return _run(settings, folder, checkpoint, notes, resume, overwrite, display, free_threads)


def _run(
    settings: RunSettings,
    folder: Path,
    checkpoint: Path | None,
    notes: list[str],
    resume: bool,
    overwrite: bool,
    display: Display | None,
    free_threads: bool,
) -> dict[str, Any]:
    prepared = prepare(settings, _rule_before(folder) if resume else None)
    notes = notes + threads.choose(prepared, read_record(folder).hardware.threads if resume else None, free_threads)
    record = _first_record(settings, prepared)
    if resume:
        notes += _check_trained_on(folder, record)
    adapts = settings.method.name not in BASELINES
    checkpointing = Checkpointing(load_costs(checkpoint), checkpoint, continues=not adapts)
    trained = _Training(prepared, checkpointing, display)
    distributed.wait()  # all have looked at the folder
    with _first_only(folder), checkpointing.heeding_sigterm():
        if distributed.is_first():
            if not resume:
                check_new(folder, overwrite=overwrite)  # another run may have begun here meanwhile
            _tell([*_noted(notes + prepared.notes), *_of_rate(prepared), *_of_coverage(prepared)])
            if display is not None:
                _tell([start_line(prepared), forecast_line(prepared)])
            _begin(folder, record, checkpoint, resume=resume)
        distributed.wait()
        try:
            with suppress_logging():
                record = trained.run(record, folder, checkpoint)
            if distributed.is_first():
                write_record(folder, record)
                drop_aside(folder)
        except KeyboardInterrupt as error:
            checkpointing.end()
            raise type(error)(_stop(folder, record, status="interrupted")) from error
        except Exception as error:
            checkpointing.end(lost=distributed.is_lost(error))
            end = _stop(folder, record, status="failed", error=hide_in_text(f"{type(error).__name__}: {error}"))
            if distributed.is_lost(error):
                go_on = end.partition(": ")[2]
                raise distributed.ProcessLost(f"another process of this run has ended; {go_on}") from error
            raise
        distributed.wait()
    return record.model_dump(mode="json")


def _rule_before(folder: Path) -> SuggestedRate | None:
    """The rate that an earlier process began the run with."""
    kept = read_record(folder).learning_rate
    return None if kept is None else rate_of_record(kept)


def _check_trained_on(folder: Path, record: Record) -> list[str]:
    """Raises TapertuneError where a run would go on with other rows, another base model or other batches."""
    saved = read_record(folder).trained_on or {}
    note = check_facts(saved, record.trained_on or {}, where=f"resume {str(folder)!r}")
    # with an adapter, its callback says so
    return [note] if note and record.method in BASELINES else []


def _look(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises TapertuneError if the folder is in use or holds what a new run may not touch."""
    if distributed.is_first() and folder.is_dir():
        check_free(folder)
        recover(folder, resume=resume)
    if not resume:
        check_new(folder, overwrite=overwrite)


@contextmanager
def _first_only(folder: Path) -> Iterator[None]:
    """The folder, made and locked by the first process."""
    if not distributed.is_first():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        yield


def _begin(folder: Path, record: Record, checkpoint: Path | None, *, resume: bool) -> None:
    drop_temporaries(folder)
    shutil.rmtree(folder / SAVING, ignore_errors=True)
    if resume:
        drop_checkpoints_after(folder, checkpoint)
    elif _has_result(folder):
        set_aside(folder)
    else:
        clear(folder)
    write_record(folder, record)


def _has_result(folder: Path) -> bool:
    """Whether the run in a folder is worth keeping until another has a checkpoint."""
    return any((folder / name).is_file() for name in _RESULTS) or bool(whole_checkpoints(folder))


def _stop(folder: Path, record: Record, *, status: str, error: str | None = None) -> str:
    """Writes how a run has ended that is not done, and returns what to tell of it. A folder that is gone stays so."""
    if not folder.is_dir():
        return status
    if not distributed.is_first():
        return f"{status}: {_how_to_go_on(folder)}"
    with suppress(OSError):
        drop_partial_checkpoints(folder)  # room for what follows, too
    if (folder / ASIDE).is_dir() and not whole_checkpoints(folder):
        with suppress(OSError):
            put_back(folder)
            return f"{status} before the first checkpoint: the run that was to be replaced is back in {str(folder)!r}"
    change = {"status": status} if error is None else {"status": status, "error": error}
    write_end(folder, record.model_copy(update=change))
    return f"{status}: {_how_to_go_on(folder)}"


def _how_to_go_on(folder: Path) -> str:
    where = next((path.name for path in reversed(checkpoints(folder)) if not is_cut_short(path)), None)
    again = f"tapertune train --resume --output-dir {shlex.quote(str(folder))}"
    return f"`{again}` " + (f"goes on from {where}" if where else "begins anew: there is no checkpoint yet")


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


def _of_coverage(prepared: Prepared) -> list[str]:
    return [] if prepared.coverage is None else _noted([str(prepared.coverage)])


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
        trained_on=trained_on(prepared),
    )


class _Training:
    """A prepared run with its trainer, which is made before anything is written: much of what can fail does so here.

    Raises:
        TapertuneError: a tracker, an optimizer or another part of the trainer is not installed or not possible here.
    """

    def __init__(self, prepared: Prepared, checkpointing: Checkpointing, display: Display | None) -> None:
        from tapertune import TapertuneCallback

        self.prepared, self.checkpointing = prepared, checkpointing
        settings, built, folder = prepared.settings, prepared.built, Path(prepared.settings.output_dir)
        sizes = {name: parameter.numel() for name, parameter in built.model.named_parameters()}
        self._head, self._adapter = (sum(sizes[name] for name in names) for names in (built.head, built.adapter))
        self._adapts = settings.method.name not in BASELINES
        name = settings.method.name
        limit, costs = settings.max_skipped_steps, checkpointing.costs
        self._watcher: Any = (
            TapertuneCallback(
                max_skipped_steps=limit, say=_warn, cache=settings.cache.settings() if settings.cache else None
            )
            if self._adapts
            else BaselineEvents(folder, name, self._adapter, self._head, costs, limit)
        )
        watcher = self._watcher
        clock = Clock(checkpointing.costs)
        shown = [] if self._adapts else [LearningWatch(name, prepared.rule, _warn)]
        shown += [] if display is None else [display]
        existed = folder.exists()
        try:
            with suppress_logging():
                stops = _early_stopping(settings)
                self.trainer = trainer_of(prepared, checkpointing, [watcher, clock, *stops, *shown])
                if self.trainer.accelerator.distributed_type.name in ("NO", "MULTI_CPU", "MULTI_GPU"):
                    self.trainer.create_optimizer()
        except (ValueError, ImportError, RuntimeError) as error:
            if not existed and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()  # Trainer makes it
            raise TapertuneError(f"training: {str(error).strip().splitlines()[0]}") from error
        if display is not None:
            display.watch(watcher.progress if not self._adapts else lambda: watcher.controller.progress())

    def run(self, record: Record, folder: Path, checkpoint: Path | None) -> Record:
        """Trains, evaluates and writes all but the record, which it returns."""
        try:
            self.trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except BaseException:
            self.checkpointing.release(failed=True)
            raise
        self.checkpointing.release()
        train = self.prepared.train
        if isinstance(train, Stream):
            _tell(_noted(train.notes()) if distributed.is_first() else [])
            rows = {"train": Rows(**asdict(train.counts)), **(record.rows or {})}
            record = record.model_copy(update={"rows": rows})
        summary = self._watcher.controller.summary() if self._adapts else None
        if summary is not None and "cache" in summary:
            record = record.model_copy(update={"cache": LayerCacheCounts(**summary["cache"])})
        skipped = self.checkpointing.costs.skipped_steps if summary is None else summary["skipped"]
        if skipped:
            record = record.model_copy(update={"skipped_steps": skipped})
            left_out = [f"steps left out, as their gradients were not finite: {skipped}"]
            _tell(_noted(left_out) if distributed.is_first() else [])
        if skipped and skipped >= self.trainer.state.global_step:
            raise ArithmeticError("training diverged: no step had finite gradients; learn more slowly")
        parameters = _counts(summary, self._adapter, self._head, self.prepared.built.base)
        fixed = self._adapts and self._watcher.controller.reducers.fixed
        costs = self.checkpointing.costs
        return finish(self.prepared, self.trainer, record, costs, parameters, folder, fixed=fixed)


def _early_stopping(settings: RunSettings) -> list[TrainerCallback]:
    block = settings.early_stopping
    return [] if block is None else [EarlyStoppingCallback(block.patience, block.threshold)]


def trainer_of(prepared: Prepared, checkpointing: Checkpointing, callbacks: Sequence[TrainerCallback]) -> RunTrainer:
    """The trainer of a prepared run; these callbacks are called before ``checkpointing``."""
    # The adapter's start has drawn random numbers, how many differs by method; Trainer seeds anew when it is made.
    built = prepared.built
    if is_packed(prepared.task):
        built.model.config.use_cache = False  # with keys for tokens to come, rows are not kept apart
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
        compute_loss_func=prepared.loss,
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
