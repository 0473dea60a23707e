"""The events of a run without an adapter: nothing is decided in it, but losses and scores change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from ..adapt.finite import AUTO, FiniteSteps, Limit
from ..adapt.following import Following
from ..events import EventLog, read_events
from ..integrations.loop import bare_optimizer
from ..integrations.manifest import checkpoints
from . import distributed
from .costs import Costs
from .run_folder import EVENTS


class BaselineEvents(TrainerCallback):
    """Writes the events of a run without an adapter: the counts do not change, losses and scores do."""

    def __init__(
        self,
        folder: Path,
        method: str,
        adapter: int,
        head: int,
        costs: Costs | None = None,
        limit: Limit = AUTO,
    ) -> None:
        self._costs, self._finite = costs or Costs(), FiniteSteps(limit)
        self._following: Following | None = None
        self._wrapper: Any = None
        self._step = 0
        self._path, self._method, self._adapter, self._head = folder / EVENTS, method, adapter, head
        self._log: EventLog | None = None

    def progress(self) -> tuple[int, int, int]:
        return self._adapter + self._head, 0, 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Everything up to a checkpoint's step is written before the checkpoint.
        done = self._step = state.global_step
        self._finite.load([self._costs.skipped_steps, 0])
        self._wrapper = kwargs.get("optimizer")
        if self._wrapper is not None:
            self._following = Following(bare_optimizer(self._wrapper), self._before_step, lambda optimizer: None)
        keep = sum(event["step"] <= done for event in read_events(self._path)) if done else 0
        self._log = EventLog(self._path, keep=keep) if distributed.is_first() else None
        if not done:
            fixed = {"method": self._method, "adapter": "default", "plan": None, "factors": []}
            counts = {"other_trainable": self._head, "trainable": self._adapter + self._head}
            self._write("start", 0, total_steps=state.max_steps, **fixed, **counts)

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        self._finite.check()
        if "loss" in logs:
            names = {"loss": "loss", "learning_rate": "lr", "grad_norm": "grad_norm"}
            self._write("loss", state.global_step, **{new: logs[old] for old, new in names.items() if old in logs})

    def on_evaluate(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._write("eval", state.global_step, metrics=timeless(metrics or {}))

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        count = self._adapter + self._head
        self._write("end", state.global_step, trainable=count, average_trainable=float(count))
        if self._following is not None:
            self._following.stop()

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._step = state.global_step

    def _before_step(self, optimizer: Any) -> None:
        saved = checkpoints(self._path.parent)
        where = self._finite.leaves_out(optimizer, dict, self._step, str(saved[-1]) if saved else None)
        self._wrapper._is_overflow = where is not None
        if where is not None:
            self._costs.skipped_steps = self._finite.skipped
            self._write("skip", self._step, first=where, skipped=self._finite.skipped)

    def _write(self, type: str, step: int, **fields: Any) -> None:
        if self._log is not None:
            self._log(type, step, **fields)


def timeless(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics of an evaluation by their own names, without clock times and the epoch."""
    ended = ("runtime", "_per_second", "preparation_time")
    return {
        key.removeprefix("eval_"): float(v) for key, v in metrics.items() if not key.endswith(ended) and key != "epoch"
    }
