"""Jobs: each run of a grid with everything that defines it, and the name that this gives its record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import TapertuneError, unknown
from ..methods import METHODS
from ..runfile.blocks import TaskBlock
from ..runfile.settings import BASELINES, check_settings, with_overrides
from ..train.models import find_model
from .grid import Grid, RowBlock
from .points import Point, points_of
from .special import COMPRESSED, PEFT_ROWS, check_special, run_method
from .splits import Splits, make_splits, task_fields

_QUICK = {"eval_strategy": "no", "save_strategy": "no"}  # a run is scored once, at its end


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run.

    Attributes:
        row, task, seed, point: its place in the grid.
        method: the row's method block; a special row's is not one of a run file.
        settings: of the run file, without files and folder.
        files: training, selection and test rows.
        sizes, data: rows of each split, and digests of what they hold.
        model: digest of the base model's files.
        stop: share of the steps after which a hopeless run ends, or None.
        keep_events: keep what was frozen and pruned.
    """

    row: str
    task: str
    seed: int
    point: Point
    method: dict[str, Any]
    settings: dict[str, Any]
    files: dict[str, str]
    sizes: dict[str, int]
    data: dict[str, str]
    model: str
    stop: float | None = None
    keep_events: bool = field(default=False, compare=False)

    @property
    def digest(self) -> str:
        """The name of its record: the same wherever the run is made, another as soon as a setting is."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:20]

    def identity(self) -> dict[str, Any]:
        """What defines the run. Where files lie is no part of it."""
        settings = {**self.settings, "model": self.model}
        return {"task": self.task, "method": self.method, "settings": settings, "data": self.data, "stop": self.stop}

    @property
    def label(self) -> str:
        return f"{self.row} on {self.task}, {self.point.label}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A grid with its data: all that its jobs are made from.

    Attributes:
        grid: the checked file.
        splits: rows by task.
        model: digest of the base model.
        points: what is screened, by row.
        raw: a run's settings by row and task, before rate and seed.
    """

    grid: Grid
    splits: dict[str, Splits]
    model: str
    points: dict[str, list[Point]]
    raw: dict[tuple[str, str], dict[str, Any]]

    def job(self, row: str, task: str, point: Point, seed: int) -> Job:
        """The run at a place of the grid."""
        grid, splits = self.grid, self.splits[task]
        overrides = {"training.learning_rate": point.rate, "seed": seed, **dict(point.changes)}
        settings = with_overrides(self.raw[row, task], overrides)
        method = {**grid.rows[row].method_block, **_method_changes(point)}
        if method["name"] in (*PEFT_ROWS, COMPRESSED):
            settings["method"] = run_method(method)
        return Job(
            row=row, task=task, seed=seed, point=point, method=method, settings=settings,
            files={name: str(path) for name, path in splits.files.items()}, sizes=splits.counts, data=splits.digests,
            model=self.model, stop=grid.stop.after if grid.stop else None,
            keep_events=grid.keep_events and seed == grid.seeds[0],
        )  # fmt: skip

    def cells(self) -> Iterator[tuple[str, str]]:
        """Every (task, row), task by task."""
        for task in self.grid.tasks:
            for row in self.grid.rows_on(task):
                yield task, row

    def count(self) -> int:
        """How many runs the grid has at most."""
        seeds = len(self.grid.seeds)
        extra = seeds if self.grid.auto else 0
        return sum(
            len(self.points[row]) + min(self.grid.best, len(self.points[row])) * (seeds - 1) + extra
            for _, row in self.cells()
        )


def _method_changes(point: Point) -> dict[str, Any]:
    return {name.removeprefix("method."): v for name, v in point.changes if name.startswith("method.")}


def make_comparison(
    grid: Grid, data: Path | None, scratch: Path, *, training: Mapping[str, Any] | None = None
) -> Comparison:
    """Reads the data of a grid and checks the settings of all its runs.

    Args:
        grid: the checked file.
        data: where tasks' files are, for tasks that name none.
        scratch: where drawn rows are kept.
        training: fields of TrainingArguments for all runs, under those that the grid sets.

    Raises:
        TapertuneError: a method, task, column or setting is unknown, or a split cannot be used.
    """
    known = [*METHODS, *BASELINES, *PEFT_ROWS, COMPRESSED]
    for row in grid.rows.values():
        if (name := row.method_block["name"]) not in known:
            raise unknown("method", name, known)
    raw = {(row, task): _raw(grid, row, task, training or {}) for task in grid.tasks for row in grid.rows_on(task)}
    points = {row: points_of(grid, row) for row in grid.rows}
    for (row, task), settings in raw.items():
        for point in _checked(points[row]):
            _check(grid, row, task, settings, point)
    model = model_digest(str(next(iter(raw.values()))["model"]))
    splits: dict[str, Splits] = {}
    for name, source in grid.tasks.items():
        task = TaskBlock.model_validate(task_fields(source)).declaration()
        splits[name] = make_splits(name, source, task, data, scratch / "rows")
    return Comparison(grid=grid, splits=splits, model=model, points=points, raw=raw)


def _checked(points: list[Point]) -> list[Point]:
    """The points whose settings are looked at: one of those that differ in rate alone."""
    plain = [point for point in points if not point.changes]
    return [*plain[:1], *{repr(point.changes): point for point in points if point.changes}.values()]


def _raw(grid: Grid, row: str, task: str, training: Mapping[str, Any]) -> dict[str, Any]:
    block, source = grid.rows[row], grid.tasks[task]
    raw = merged({"training": {**_QUICK, **training}}, grid.base)
    method = block.method_block
    if method["name"] in BASELINES:  # all that trains has the one rate that is tuned
        raw["head"] = {name: value for name, value in (raw.get("head") or {}).items() if name != "learning_rate"}
    raw = merged(raw, {"training": source.training})
    raw = merged(raw, {"training": block.training, "head": block.head})
    raw["method"] = run_method(method) if method["name"] in (*PEFT_ROWS, COMPRESSED) else method
    raw |= {name: value for name in ("plan", "quantization", "cache") if (value := getattr(block, name)) is not None}
    if "model" not in raw:
        raise TapertuneError("setting base.model is missing: name on the hub, folder, or minilm")
    return {**raw, "task": task_fields(source)}


def _check(grid: Grid, row: str, task: str, raw: Mapping[str, Any], point: Point) -> None:
    block: RowBlock = grid.rows[row]
    try:
        settings = with_overrides(dict(raw), {"training.learning_rate": point.rate, **dict(point.changes)})
        method = {**block.method_block, **_method_changes(point)}
        if method["name"] in (*PEFT_ROWS, COMPRESSED):
            check_special(method)
            if settings.get("cache"):
                raise TapertuneError(f"cache: {method['name']} is PEFT's own, and is run as it is")
            settings["method"] = run_method(method)
        check_settings(settings)
    except TapertuneError as error:
        raise TapertuneError(f"row {row!r} on task {task!r}: {error}") from error


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, those of ``second`` over those of ``first``.

    >>> merged({"training": {"a": 1, "b": 2}}, {"training": {"b": 3}})
    {'training': {'a': 1, 'b': 3}}
    """
    result = dict(first)
    for key, value in second.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result


def model_digest(name: str) -> str:
    """What tells a base model's files from another's: its config, and size and beginning of its weights. Of a model on
    the hub, its name."""
    folder = Path(find_model(name))
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.name == "config.json" or file.suffix in (".safetensors", ".bin"):
            digest.update(f"{file.name} {file.stat().st_size if file.suffix != '.json' else ''}".encode())
            with file.open("rb") as opened:
                digest.update(opened.read(2**20))
    return digest.hexdigest()[:16]
