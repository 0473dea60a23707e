"""A grid's file: what all runs share, the rows (methods with settings), the tasks, and how rates are tuned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..errors import TapertuneError, bad_value, unknown
from ..methods.rates import MOST
from ..runfile import yamlfile
from ..runfile.arguments import in_json
from ..runfile.blocks import Block

_MOST_RATES = 1000


class StopBlock(Block):
    """When a hopeless run ends early: one rule for all rows."""

    after: float = Field(gt=0, lt=1, description="share of the steps after which a run whose loss has not fallen ends")


class TaskSource(BaseModel):
    """A task's rows and how many of them; other keys are the task's own, as in a run file."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    task: str = Field("", description="the task's name; without it, the key's")
    data: str | None = Field(None, description="folder of the data, or sample; without it, the command's --data")
    train: str | None = Field(None, description="training file, instead of a folder")
    selection: str | None = Field(None, description="file to choose by; without it, rows drawn from the training file")
    test: str | None = Field(None, description="file that is read once, at the end of a run")
    train_rows: int | None = Field(None, gt=0, description="draw so many training rows; none: all")
    selection_rows: int | None = Field(None, gt=0, description="draw so many rows to choose by; none: all of the file")
    test_rows: int | None = Field(None, gt=0, description="take the first so many test rows; none: all")
    training: dict[str, Any] = Field(default_factory=dict, description="TrainingArguments for this task alone")

    @property
    def fields(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class RowBlock(Block):
    """A row: a method, and settings that differ from the base's."""

    method: str | dict[str, Any] = Field(description="a method's name, or a block with name and settings")
    plan: dict[str, Any] | list[dict[str, Any]] | None = Field(None, description="changes to the method's plan")
    training: dict[str, Any] = Field(default_factory=dict, description="fields of TrainingArguments")
    head: dict[str, Any] = Field(default_factory=dict, description="the head's block")
    quantization: dict[str, Any] | None = Field(None, description="of the base model")
    cache: dict[str, Any] | bool | None = Field(None, description="of what enters the lowest layer that trains")
    tasks: list[str] | None = Field(None, description="run on these tasks alone")
    rates: Any = Field(None, description="instead of the grid's")
    search: dict[str, list[Any]] = Field(default_factory=dict, description="with trials: values by dotted setting")

    @property
    def method_block(self) -> dict[str, Any]:
        return {"name": self.method} if isinstance(self.method, str) else dict(self.method)


class Grid(Block):
    """The whole file, checked. ``load_grid`` is the way to make one."""

    name: str = Field("", description="the grid's name; empty: the file's")
    base: dict[str, Any] = Field(description="settings of a run file that all rows share")
    rows: dict[str, RowBlock] = Field(min_length=1, description="rows by name")
    tasks: dict[str, TaskSource] = Field(min_length=1, description="tasks by name")
    seeds: list[int] = Field(min_length=1, description="the first screens, all run the best")
    rates: Any = Field(description="learning rates: a list, or {from, to, per_decade}")
    best: int = Field(1, gt=0, description="so many of the screened points run with all seeds")
    trials: int | None = Field(None, gt=0, description="an equal number of tuning trials a row, in place of all rates")
    reference: str = Field("", description="the row that others are tested against; empty: the first")
    stop: StopBlock | None = Field(None, description="when hopeless runs end early; none: never")
    auto: bool = Field(False, description="run each row at the rate of learning_rate: auto too; it is never chosen")
    keep_events: bool = Field(False, description="keep what was frozen and pruned in each best run with the first seed")

    @field_validator("rows", mode="before")
    @classmethod
    def _rows(cls, value: Any) -> Any:
        value = _named(value)
        if not isinstance(value, Mapping):
            return value
        blocks: dict[Any, Any] = {}
        for name, block in value.items():
            block = block if isinstance(block, Mapping) else {"method": name if block is None else block}
            blocks[name] = {"method": name, **block}
        return blocks

    @field_validator("tasks", mode="before")
    @classmethod
    def _tasks(cls, value: Any) -> Any:
        value = _named(value)
        return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _names(self) -> Grid:
        for name, task in self.tasks.items():
            task.task = task.task or name
        self.reference = self.reference or next(iter(self.rows))
        return self

    def rows_on(self, task: str) -> list[str]:
        """The rows that run on a task."""
        return [name for name, row in self.rows.items() if row.tasks is None or task in row.tasks]

    def rates_of(self, row: str) -> list[float]:
        """The learning rates of a row, ascending."""
        own = self.rows[row].rates
        return read_rates(self.rates, "rates") if own is None else read_rates(own, f"rows.{row}.rates")


def load_grid(path: str | Path) -> Grid:
    """Reads and checks a grid's file; runs' settings are checked when its jobs are made.

    Raises:
        TapertuneError: it cannot be read, a key is unknown (the nearest is named), or a value is wrong.
    """
    raw = yamlfile.read(Path(path))
    grid = check_grid(raw)
    grid.name = grid.name or Path(path).stem
    return grid


def check_grid(raw: Mapping[str, Any]) -> Grid:
    """A grid from nested values, checked.

    Raises:
        TapertuneError: as ``load_grid``.
    """
    try:
        grid = Grid.model_validate(_of_finite(dict(raw), ""))
    except ValidationError as error:
        raise _translate(error) from error
    if len(set(grid.seeds)) != len(grid.seeds):
        raise bad_value("seeds", grid.seeds, "different whole numbers")
    if negative := [seed for seed in grid.seeds if seed < 0]:
        raise bad_value("seeds", negative[0], "0 or more")
    if grid.reference not in grid.rows:
        raise unknown("reference", grid.reference, grid.rows)
    for name, row in grid.rows.items():
        grid.rates_of(name)
        if "name" not in row.method_block:
            raise TapertuneError(f"rows.{name}.method has no name")
        for task in row.tasks or []:
            if task not in grid.tasks:
                raise unknown(f"task in rows.{name}.tasks", task, grid.tasks)
        if row.search and grid.trials is None:
            raise TapertuneError(f"rows.{name}.search needs trials: without it every rate is run once")
        for setting, values in row.search.items():
            if not values:
                raise bad_value(f"rows.{name}.search.{setting}", values, "a list of values, at least one")
    for key in ("method", "task", "plan", "seed", "output_dir", "name"):
        if key in grid.base:
            raise TapertuneError(f"base.{key}: a grid's base has none; rows, tasks and seeds are blocks of their own")
    return grid


def _of_finite(value: Any, place: str) -> Any:
    """Values with none in them that is not a finite number, as the store keeps them in JSON."""
    if isinstance(value, Mapping):
        return {key: _of_finite(in_json(str(key), inner), f"{place}.{key}") for key, inner in value.items()}
    if isinstance(value, list):
        return [_of_finite(inner, place) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise bad_value(place.removeprefix("."), value, "a finite number")
    return value


def _named(value: Any) -> Any:
    """A list of names as a mapping without values; anything else as it is."""
    names = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return dict.fromkeys(value) if names else value


def read_rates(value: Any, field: str) -> list[float]:
    """The learning rates that a list or a span stands for, ascending.

    >>> read_rates({"from": 1e-4, "to": 1e-3, "per_decade": 4}, "rates")
    [0.0001, 0.00018, 0.00032, 0.00056, 0.001]

    Raises:
        TapertuneError: it is neither, or a rate is not above 0.
    """
    if isinstance(value, Mapping):
        rates = _span(value, field)
    elif isinstance(value, list) and value:
        rates = list(value)
    else:
        raise bad_value(field, value, "a list of learning rates, or {from, to, per_decade}")
    for rate in rates:
        _check_number(field, rate)
        if rate >= MOST:
            raise bad_value(field, rate, f"below {MOST}")
    if len(set(rates)) != len(rates):
        raise bad_value(field, rates, "different rates")
    return sorted(float(rate) for rate in rates)


def _span(value: Mapping[Any, Any], field: str) -> list[float]:
    wanted = ("from", "to", "per_decade")
    for key in value:
        if key not in wanted:
            raise unknown("setting", f"{field}.{key}", [f"{field}.{name}" for name in wanted])
    for key in wanted:
        if key not in value:
            raise TapertuneError(f"setting {field}.{key} is missing: a span of rates is {{from, to, per_decade}}")
        number = value[key]
        _check_number(f"{field}.{key}", number)
    low, high, each = (float(value[key]) for key in wanted)
    if high < low:
        raise bad_value(f"{field}.to", value["to"], f"at least {field}.from, which is {value['from']}")
    if each * (math.log10(high) - math.log10(low)) > _MOST_RATES:
        raise bad_value(f"{field}.per_decade", value["per_decade"], f"less: a span has at most {_MOST_RATES} rates")
    count = math.floor(each * math.log10(high / low) + 0.05) + 1  # ends may be written as 5.6e-2
    digits = 1 if each <= 12 else 4  # finer steps than that would fall together
    return [float(f"{low * 10 ** (number / each):.{digits}e}") for number in range(count)]


def _check_number(field: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < min(math.inf, 1 << 63):
        raise bad_value(field, value, "above 0")


def _translate(error: ValidationError) -> TapertuneError:
    errors = error.errors()
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        blocks: dict[str, type[BaseModel]] = {"rows": RowBlock, "tasks": TaskSource, "stop": StopBlock}
        place = first["loc"][:-1]
        model = blocks.get(str(place[0]), Grid) if place else Grid
        prefix = "".join(f"{part}." for part in place)
        return unknown("setting", path, [prefix + name for name in model.model_fields])
    if first["type"] == "missing":
        field = Grid.model_fields.get(path)
        return TapertuneError(f"setting {path} is missing" + (f": {field.description}" if field else ""))
    wanted = first["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    plain = {"string": "text", "integer": "a whole number", "number": "a number", "dictionary": "a block of settings",
             "list": "a list"}  # fmt: skip
    return bad_value(path, first["input"], plain.get(wanted, wanted))
