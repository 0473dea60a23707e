"""Settings of a method that keep to a budget: the given ones, with as little changed as is needed.

For parameters the rank is halved, the scaling kept. For memory the evaluation's batch becomes the training's; weights
are held in bfloat16; activations are computed again; on a GPU the base model is quantised in 4 bits; and under each of
these the batch is halved, its rows a step kept by accumulation. For minutes there are fewer epochs, one at least.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import TapertuneError
from ..methods import METHODS
from ..report.numbers import count, duration
from ..runfile.settings import BASELINES, RunSettings, adapter_config, check_settings, with_overrides
from .budget import Budget, in_words
from .over_time import OverTime
from .plan import Estimate

Estimated = Callable[[RunSettings], Estimate]
Counted = Callable[[RunSettings], OverTime]
_ACCUMULATED, _BATCH = "training.gradient_accumulation_steps", "training.per_device_train_batch_size"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Settings of a method and what they take.

    Attributes:
        raw: a run file's values.
        changes: by dotted name, what is not as it was given.
        estimate: what they take.
        over: how many times the budget they take where they do not keep to it, by what; empty where they do.
    """

    raw: dict[str, Any]
    changes: dict[str, Any]
    estimate: Estimate
    over: dict[str, float]

    @property
    def fits(self) -> bool:
        return not self.over

    def described(self) -> str:
        """The changed settings, then what they take."""
        estimate = self.estimate
        changed = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in self.changes.items())
        minutes = None if estimate.time is None else estimate.time.minutes
        takes = [in_words(estimate.memory.total), f"{count(estimate.parameters.average)} parameters"]
        takes += [] if minutes is None else [duration(60 * minutes)]
        return f"{estimate.settings.method.name}{f' with {changed}' if changed else ''}: {', '.join(takes)}"


def for_method(raw: Mapping[str, Any], method: str) -> dict[str, Any]:
    """A run file's values for a method: those of the file's own method where it is that one, else the method's
    defaults."""
    mine = copy.deepcopy(dict(raw))
    block = mine.get("method")
    name = block.get("name") if isinstance(block, Mapping) else block
    if name != method:
        mine.pop("plan", None)
        mine["method"] = {"name": method}
        # written for the other method
        for key in ("name", "output_dir"):
            mine.pop(key, None)
    elif isinstance(block, str):
        mine["method"] = {"name": method}
    return mine


def fit(
    raw: Mapping[str, Any],
    method: str,
    budget: Budget,
    estimated: Estimated,
    counted: Counted,
    untimed: Estimated | None = None,
) -> Fit:
    """The settings of a method that keep to a budget, or that come nearest.

    Args:
        raw: a run file's values.
        method: the method.
        budget: at most so much.
        estimated: what a run takes.
        counted: the parameters that it trains.
        untimed: what a run takes but for its time, which takes seconds to tell; where a budget is searched for.

    Raises:
        TapertuneError: the settings are wrong, or minutes are asked for that cannot be known here.
    """
    search = _Search(for_method(raw, method), estimated, counted)
    if budget.parameters is not None:
        search.spend_parameters(budget.parameters)
    if budget.memory is not None:
        quick = _Search(search.raw, untimed or estimated, counted, search.changes)
        quick.spend_memory(budget.memory)
    if budget.minutes is not None:
        search.spend_minutes(budget.minutes)
    return search.found(budget)


class _Search:
    def __init__(
        self, raw: dict[str, Any], estimated: Estimated, counted: Counted, changes: dict[str, Any] | None = None
    ) -> None:
        self.raw, self._estimated, self._counted = raw, estimated, counted
        self.changes: dict[str, Any] = {} if changes is None else changes
        self._known: dict[str, Estimate] = {}

    def found(self, budget: Budget) -> Fit:
        estimate = self._estimate({})
        takes = {
            "memory": (estimate.memory.total, budget.memory),
            "parameters": (estimate.parameters.average, budget.parameters),
            "minutes": (None if estimate.time is None else estimate.time.minutes, budget.minutes),
        }
        over = {k: v / most for k, (v, most) in takes.items() if v is not None and most is not None and v > most}
        raw = with_overrides(self.raw, self.changes)
        return Fit(raw=raw, changes=self.changes, estimate=estimate, over=over)

    def spend_parameters(self, most: int) -> None:
        settings = self._settings({})
        if settings.method.name in BASELINES:
            return
        row, start = METHODS[settings.method.name], adapter_config(settings).settings()
        first = rank = getattr(start, row.rank)
        while self._counted(self._settings({})).average > most and rank > 1:
            rank //= 2
            self.changes |= {f"method.{name}": value for name, value in _at_rank(start, row.rank, rank, first).items()}

    def spend_memory(self, most: int) -> None:
        if self._estimate({}).memory.total <= most:
            return
        tried = {}
        for change in self._variants():
            tried = change
            fitting = self._halved(change, most)
            if fitting is not None:
                self.changes |= fitting
                return
        self.changes |= {**tried, **self._batch(1)}

    def spend_minutes(self, most: float) -> None:
        estimate = self._estimate({})
        minutes = None if estimate.time is None else estimate.time.minutes
        if minutes is None:
            raise TapertuneError(
                "--minutes: how long a run takes cannot be known here: "
                + ("the device is another" if estimate.time is None else "give --rows, the rows of its training file")
            )
        training = estimate.settings.training
        if minutes <= most:
            return
        if training.get("max_steps", -1) > 0:
            self.changes["training.max_steps"] = max(1, int(training["max_steps"] * most / minutes))
        elif training["num_train_epochs"] > 1:
            epochs = math.floor(10 * training["num_train_epochs"] * most / minutes) / 10
            self.changes["training.num_train_epochs"] = max(1.0, epochs)

    def _variants(self) -> Iterator[dict[str, Any]]:
        """Changes for memory, from the least."""
        settings = self._settings({})
        batch = settings.training["per_device_train_batch_size"]
        evaluated = {"training.per_device_eval_batch_size": min(batch, settings.training["per_device_eval_batch_size"])}
        yield evaluated
        half = {} if settings.dtype != "float32" else {"dtype": "bfloat16"}
        if half:
            yield {**evaluated, **half}
        again = {"training.gradient_checkpointing": True}
        yield {**evaluated, **half, **again}
        if settings.method.name not in BASELINES and self._estimate({}).device == "cuda":
            packed = {"quantization.bits": 4, "quantization.double": True}
            yield {**evaluated, **half, **packed}
            yield {**evaluated, **half, **packed, **again}

    def _halved(self, change: dict[str, Any], most: int) -> dict[str, Any] | None:
        """The change with the largest batch, halved as often as is needed, that fits; None where none does."""
        if self._estimate({**change, **self._batch(1)}).memory.total > most:
            return None
        size = self._settings({}).training["per_device_train_batch_size"]
        while size > 1:
            fitting = {**change, **self._batch(size)}
            if self._estimate(fitting).memory.total <= most:
                return fitting
            size //= 2
        return {**change, **self._batch(1)}

    def _batch(self, size: int) -> dict[str, Any]:
        training = self._settings({}).training
        given, passes = training["per_device_train_batch_size"], training.get("gradient_accumulation_steps", 1)
        if size >= given:
            return {}
        evaluated = {"training.per_device_eval_batch_size": min(size, training["per_device_eval_batch_size"])}
        return {_BATCH: size, _ACCUMULATED: passes * math.ceil(given / size), **evaluated}

    def _settings(self, changes: dict[str, Any]) -> RunSettings:
        return check_settings(with_overrides(self.raw, {**self.changes, **changes}))

    def _estimate(self, changes: dict[str, Any]) -> Estimate:
        key = repr(sorted({**self.changes, **changes}.items()))
        if key not in self._known:
            self._known[key] = self._estimated(self._settings(changes))
        return self._known[key]


def _at_rank(start: Any, name: str, rank: int, first: int) -> dict[str, Any]:
    """A method's settings at another rank, those that go with the rank in proportion."""
    changed: dict[str, Any] = {name: rank}
    values = {field.name: getattr(start, field.name) for field in dataclasses.fields(start)}
    if "lora_alpha" in values:
        alpha = values["lora_alpha"] * rank / first
        changed["lora_alpha"] = int(alpha) if alpha == int(alpha) else alpha
    if values.get("target_r") is not None:
        changed["target_r"] = max(1, min(rank - 1, round(values["target_r"] * rank / first)))
    if "k" in values:  # LoRA^2's inner width carries most of its parameters
        changed["k"] = max(1, values["k"] * rank // first)
    return changed


def check_fits(fits: list[Fit], asked: str) -> list[Fit]:
    """Those that keep to the budget.

    Raises:
        TapertuneError: none does; the nearest is described.
    """
    fitting = [each for each in fits if each.fits]
    if fitting:
        return fitting
    nearest = min(fits, key=lambda each: max(each.over.values()))
    raise TapertuneError(f"nothing fits {asked}; the nearest is {nearest.described()}")
