"""A run folder as the report needs it: what happened from ``events.jsonl``, what it came to from ``run.json``."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import TapertuneError, shown
from ..events import Event, is_count, is_number, whole_events
from ..files import read_json
from ..redaction import hide_secrets
from .classes import Classes, build_classes
from .curves import (
    Curve,
    Evaluation,
    Point,
    build_curve,
    build_evaluations,
    build_factors,
    build_frozen,
    build_losses,
    head_parameters,
    main_metric,
)
from .faults import known_events, without_faults
from .heatmap import Factor, Heatmap, build_heatmap
from .plans import PlanData, may_freeze, read_plans
from .ranks import Ranks, build_ranks
from .trainer_folder import is_trainer_folder, record_of

SCHEMA_VERSION = 1
_NAMED = 5  # so many faults are named
RunPath = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a run is judged by."""

    metric: str = field(metadata={"help": "name such as accuracy"})
    value: float = field(metadata={"help": "in the metric's own unit"})
    count: int | None = field(metadata={"help": "examples it was computed on"})
    interval: tuple[float, float] | None = field(metadata={"help": "95% confidence interval"})


@dataclass(frozen=True, kw_only=True)
class RunData:
    """One run. Fields that ``run.json`` does not (yet) hold are None or empty."""

    path: Path = field(metadata={"help": "run folder"})
    name: str = field(metadata={"help": "name of the run, else of its folder"})
    status: str = field(metadata={"help": "running, done, failed or interrupted"})
    complete: bool = field(metadata={"help": "whether the events reach the end of training"})
    method: str = field(metadata={"help": "name of the method"})
    model: str | None = field(metadata={"help": "base model"})
    task: str | None = field(metadata={"help": "what it was trained on"})
    seed: int | None = field(metadata={"help": "random seed"})
    score: Score | None = field(metadata={"help": "the score with its interval"})
    total_steps: int | None = field(metadata={"help": "optimizer steps planned"})
    plans: tuple[PlanData, ...] = field(metadata={"help": "what decided, from events; several run side by side"})
    factors: tuple[Factor, ...] = field(metadata={"help": "all factors of the adapter"})
    curve: Curve = field(metadata={"help": "trainable parameters over steps, from events"})
    head_parameters: int = field(metadata={"help": "trainable parameters outside the adapter, from events"})
    losses: tuple[Point, ...] = field(metadata={"help": "training losses, from events"})
    evaluations: tuple[Evaluation, ...] = field(metadata={"help": "evaluations, from events"})
    metric: str | None = field(metadata={"help": "metric of the evaluations to draw"})
    heatmap: Heatmap | None = field(metadata={"help": "freezing steps, from events; None if nothing could freeze"})
    ranks: Ranks | None = field(metadata={"help": "ranks in use, from events; None if none could be pruned"})
    classes: Classes | None = field(metadata={"help": "what came of each class; None if there are none"})
    record: Mapping[str, Any] = field(metadata={"help": "run.json as it was read, without what is wrong in it"})
    faults: tuple[str, ...] = field(default=(), metadata={"help": "what of the files could not be used"})

    def number(self, *keys: str) -> float | None:
        """A number of ``run.json`` by its keys, or None where it is not recorded.

        Raises:
            TapertuneError: there is something else than a number.
        """
        value: Any = self.record
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TapertuneError(f"{self.path / 'run.json'}: {'.'.join(keys)} is {value!r}, not a number")
        return value if math.isfinite(value) else None

    def section(self, key: str) -> Mapping[str, Any]:
        """An object of ``run.json`` such as ``settings``, empty where it is not recorded."""
        value = self.record.get(key)
        return hide_secrets(value) if isinstance(value, Mapping) else {}  # a report is for others to read

    @property
    def notice(self) -> str | None:
        """What to know of a run that did not end well, or whose files are damaged; None for any other."""
        parts = [part for part in (self._ending, self._damage) if part]
        return " ".join(parts) or None

    @property
    def _damage(self) -> str | None:
        if not self.faults:
            return None
        named = "; ".join(self.faults[:_NAMED])
        more = f"; and {len(self.faults) - _NAMED} more" if len(self.faults) > _NAMED else ""
        return f"Not all of its files could be used, and what is shown may lack a part: {named}{more}."

    @property
    def _ending(self) -> str | None:
        if self.complete and self.status == "done":
            return None
        planned = f" of {self.total_steps:,}" if self.total_steps else ""
        reached = f"step {self.curve.length:,}{planned}"
        how = {
            "running": f"This run has not ended: it was at {reached} when this was written.",
            "interrupted": f"This run was interrupted at {reached}.",
            "failed": f"This run failed at {reached}.",
        }
        known = how.get(self.status, f"This run has status {self.status!r}; its events reach {reached}.")
        return f"{known} Averages are over the steps done."


def load_run(path: RunPath) -> RunData:
    """Reads a run folder.

    Args:
        path: folder that holds ``run.json`` and ``events.jsonl``; or what Trainer left with ``TapertuneCallback``:
            ``events.jsonl`` and, there or in checkpoints, ``trainer_state.json`` and the adapter.

    Raises:
        TapertuneError: a file is missing, broken or of a newer schema, or training had not begun.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise TapertuneError(f"{str(folder)!r} is not a run folder: there is no such folder")
    of_trainer = is_trainer_folder(folder)
    record, faults = ({}, []) if of_trainer else without_faults(_read_record(folder / "run.json"))
    events, lines = whole_events(folder / "events.jsonl")
    faults = [*(f"run.json: {fault}" for fault in faults), *(f"events.jsonl, {line}" for line in lines)]
    try:
        events, strange = known_events(events)
        faults += [f"events.jsonl: {fault}" for fault in strange]
        if not any(event["type"] == "start" for event in events) and lines:
            raise TapertuneError(f"events.jsonl, {lines[0]}, and no other event says how training started")
        if of_trainer:
            record = record_of(folder, events)
        return _build(folder, record, events, tuple(faults))
    except TapertuneError as error:
        raise TapertuneError(f"{folder}: {error}") from error


def load_runs(paths: RunPath | Sequence[RunPath]) -> list[RunData]:
    """Reads one or several run folders, in the order given.

    Raises:
        TapertuneError: no folder given, or one that cannot be read.
    """
    several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not several:
        raise TapertuneError("no run folder given")
    return [load_run(path) for path in several]


def _build(folder: Path, record: Mapping[str, Any], events: Sequence[Event], faults: tuple[str, ...]) -> RunData:
    start = _only_start(events)
    factors, plans = build_factors(start), read_plans(start)
    frozen = build_frozen(events, factors)
    evaluations = build_evaluations(events)
    score = _score(record)
    total = start.get("total_steps")
    return RunData(
        path=folder,
        name=_text(record, "name") or folder.resolve().name,
        status=_text(record, "status") or "unknown",
        complete=any(event["type"] == "end" for event in events),
        method=_text(record, "method") or str(start.get("method") or "unknown"),
        model=_text(record, "model"),
        task=_text(record, "task"),
        seed=record.get("seed"),
        score=score,
        total_steps=total if isinstance(total, int) else None,
        plans=plans,
        factors=factors,
        curve=build_curve(events, start),
        head_parameters=head_parameters(start),
        losses=build_losses(events),
        evaluations=evaluations,
        metric=main_metric(evaluations, score.metric if score else None),
        heatmap=build_heatmap([factor for factor in factors if may_freeze(plans, factor.factor)], frozen),
        ranks=build_ranks(events, start, factors, plans),
        classes=build_classes(record),
        record=record,
        faults=faults,
    )


def _only_start(events: Sequence[Event]) -> Event:
    starts = [event for event in events if event["type"] == "start"]
    if not starts:
        raise TapertuneError("events.jsonl has no start event: training had not begun")
    if len(starts) > 1:
        raise TapertuneError(f"events.jsonl has {len(starts)} start events: it mixes several runs")
    return starts[0]


def _read_record(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise TapertuneError(f"cannot read {str(path)!r}: No such file. Is this the folder of a run?")
    record = read_json(path)
    version = record.get("schema_version") if isinstance(record, dict) else None
    if isinstance(version, bool) or not isinstance(version, int):
        raise TapertuneError(f"{path}: no schema_version, so this is not the record of a tapertune run")
    if version > SCHEMA_VERSION:
        raise TapertuneError(f"{path}: schema {version}; this tapertune reads up to {SCHEMA_VERSION}")
    _score(record)
    return record


def _score(record: Mapping[str, Any]) -> Score | None:
    score = record.get("score")
    if score is None:
        return None
    wrong = TapertuneError(f"run.json: score is {shown(score)}, not metric, value, count and interval")
    if not isinstance(score, Mapping) or not isinstance(score.get("metric"), str):
        raise wrong
    value, interval, count = score.get("value"), score.get("interval"), score.get("count")
    numbers = [value, *(interval if isinstance(interval, list) else [])]
    if not all(map(is_number, numbers)) or not (count is None or is_count(count)):
        raise wrong
    if interval is not None and len(numbers) != 3:
        raise wrong
    low_high = None if interval is None else (float(numbers[1]), float(numbers[2]))
    return Score(metric=score["metric"], value=float(numbers[0]), count=count, interval=low_high)


def _text(record: Mapping[str, Any], key: str) -> str | None:
    value = record.get(key)
    return None if value is None else str(value)
