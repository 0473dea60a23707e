"""What trackers (TensorBoard, trackio, wandb, MLflow) see of a run: how much trains, what has frozen, which ranks are
left. Trainer gives each log to its callbacks in their order, trackers before those that a user adds: what is added here
stands before them all."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..adapt import Controller

PREFIX = "tapertune/"
_MODULES = 256  # of more modules, ranks are not written one by one


class Tracked(TrainerCallback):
    """Adds to what Trainer logs beside a loss. Nothing of a run in which nothing adapts."""

    def __init__(self) -> None:
        self._controller: Controller | None = None
        self._ranks: dict[str, int] = {}

    def begin(self, trainer: Trainer | None, controller: Controller) -> None:
        """At the start of training; without a Trainer nothing is added."""
        self._controller, self._ranks = controller, {}
        if trainer is not None and controller.plans:
            self._leave(trainer)
            # a new list: Trainer is going through the present one
            trainer.callback_handler.callbacks = [self, *trainer.callback_handler.callbacks]

    def end(self, trainer: Trainer | None) -> None:
        self._controller = None
        if trainer is not None:
            self._leave(trainer)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs.get("logs")
        if self._controller is not None and logs is not None and "loss" in logs:
            logs.update(self._values(self._controller))

    def _leave(self, trainer: Trainer) -> None:
        others = [callback for callback in trainer.callback_handler.callbacks if callback is not self]
        trainer.callback_handler.callbacks = others

    def _values(self, controller: Controller) -> dict[str, int | float]:
        values: dict[str, int | float] = {f"{PREFIX}trainable": controller.trainable}
        if controller.freezable:
            values[f"{PREFIX}frozen"] = len(controller.frozen)
        ranks = controller.ranks
        if ranks:
            values |= {f"{PREFIX}rank_mean": fmean(ranks.values()), f"{PREFIX}rank_total": sum(ranks.values())}
        if len(ranks) <= _MODULES:  # those that have changed since the last log
            changed = {module: rank for module, rank in ranks.items() if self._ranks.get(module) != rank}
            values |= {f"{PREFIX}rank/{module}": rank for module, rank in changed.items()}
        self._ranks = ranks
        return values
