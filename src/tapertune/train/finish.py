"""The end of a run: evaluate, add up, save what was trained, write the run folder's texts."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path

from transformers import Trainer

from ..cost import measured
from ..events import read_events
from ..files import whole_file, write_json, write_text
from ..runfile import environment
from ..runfile.record import ClassScores, Memory, Parameters, Record, Score, Time
from ..runfile.settings import BASELINES
from ..tasks.kinds.base import ClassCounts, Encoded
from ..tasks.stream import Stream
from . import distributed
from .measure import forward_of, measure
from .model_card import model_card
from .models import find_model
from .prepare import Prepared
from .run_folder import EVENTS, SAVING, move_into
from .trained_folder import write_task
from .trainer import Costs


def finish(
    prepared: Prepared,
    trainer: Trainer,
    record: Record,
    costs: Costs,
    parameters: Parameters,
    folder: Path,
    *,
    fixed: bool = False,
) -> Record:
    """Evaluates and writes everything but ``run.json``; returns its content. ``fixed``: what froze went on costing its
    backward work, as several processes could not do without it.

    Raises:
        ArithmeticError: the evaluation loss is not a finite number.
    """
    steps = trainer.state.global_step
    began = time.perf_counter()
    main, metrics, classes = _evaluate(prepared, trainer)
    seconds = time.perf_counter() - began
    peak = max(costs.peak_rss_bytes, environment.peak_rss_bytes())
    tokens = measured.Tokens(**{name: distributed.total(getattr(costs, name)) for name in ("tokens", "rows", "passes")})
    built, events = prepared.built, read_events(folder / EVENTS)
    results = {
        "status": "done",
        "score": main,
        "metrics": metrics,
        "classes": None if classes is None else ClassScores(**asdict(classes)),
        "parameters": parameters,
        "flops": measured.run_flops(
            prepared.settings, built.model, built.head, tokens, events, steps, distributed=fixed
        ),
        "time": Time(
            train_seconds=costs.train_seconds,
            eval_seconds=seconds,
            seconds_per_step=costs.train_seconds / max(1, steps),
        ),
        "memory": Memory(
            peak_rss_bytes=peak,
            peak_cuda_bytes=environment.peak_cuda_bytes(),
            optimizer_bytes_start=costs.optimizer_bytes_start,
            optimizer_bytes_end=costs.optimizer_bytes_end,
        ),
        "steps": steps,
    }
    done = record.model_copy(update=results)
    if distributed.is_first():
        done = done.model_copy(update={"adapter_bytes": _save(prepared, folder)})
        _write_texts(prepared, trainer, done, folder)
    return done


def _evaluate(prepared: Prepared, trainer: Trainer) -> tuple[Score, dict[str, float], ClassCounts | None]:
    """The score with its interval, all metrics, those of a second split named after it, and the score's classes."""
    metrics: dict[str, float] = {}
    main: Score | None = None
    classes: ClassCounts | None = None
    for split, rows in prepared.evaluation.items():
        measured = measure(prepared.task, forward_of(trainer), rows)
        ending = "" if main is None else "_" + split.removeprefix("validation_")
        metrics.update({name + ending: value for name, value in measured.metrics.items()})
        if main is None:
            main, classes = measured.score, measured.scores.classes
    assert main is not None, "a task has at least one split to evaluate"
    loss = metrics.get("loss", 0.0)  # without one, no row's answer fits
    if not math.isfinite(loss):
        raise ArithmeticError(f"training diverged: the evaluation loss is {loss}; learn more slowly")
    return main, metrics, classes


def _save(prepared: Prepared, folder: Path) -> int:
    """Saves what was trained (an adapter with its head, or a whole model); returns the bytes of its weights."""
    temporary = folder / SAVING
    built = prepared.built
    if prepared.settings.method.name in BASELINES:
        built.model.save_pretrained(temporary)
        built.tokenizer.save_pretrained(temporary)
        weights = "model.safetensors"
    else:
        built.model.save_pretrained(temporary, save_embedding_layers=False)
        weights = "adapter_model.safetensors"
    move_into(temporary, folder, without=("README.md",))
    return (folder / weights).stat().st_size


def _streamed(train: Encoded | Stream) -> int:
    return train.counts.rows if isinstance(train, Stream) else len(set(train.owners))


def _write_texts(prepared: Prepared, trainer: Trainer, record: Record, folder: Path) -> None:
    write_task(folder, prepared.task)
    with whole_file(folder / "trainer_state.json") as temporary:
        trainer.state.save_to_json(str(temporary))
    assert record.metrics is not None and record.time is not None, "the run is done"
    results = {f"eval_{name}": value for name, value in record.metrics.items()}
    train = prepared.train
    used = prepared.counts.get("train")  # of a stream not known beforehand
    rows = {"train_samples": used.rows - used.bad - used.left_out if used else _streamed(train)}
    counts = {"eval_samples": len(next(iter(prepared.evaluation.values())).examples), **rows}
    write_json(folder / "all_results.json", {**results, **counts, "train_runtime": record.time.train_seconds})
    write_text(folder / "README.md", model_card(record, prepared.task, find_model(prepared.settings.model)))
