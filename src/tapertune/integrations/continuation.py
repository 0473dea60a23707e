"""What of a Trainer's run is in no checkpoint of Trainer's: the losses since it last logged, and whether the epoch's
end was still to come. With it the logs and events of a resumed run are those of one that was not stopped."""

from __future__ import annotations

import math
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerState


class Continuation:
    """Follows a Trainer from its callbacks, which are told of its state and not of itself."""

    def __init__(self) -> None:
        self._trainer: weakref.ref[Trainer] | None = None
        self._epoch_ended = self._resumed = False

    def begin(self, state: TrainerState, saved: dict[str, Any] | None, folder: Path | None) -> None:
        """At ``on_train_begin``.

        Args:
            state: Trainer's.
            saved: what ``note`` has returned for the checkpoint that training goes on from; None at a run's start.
            folder: of that checkpoint.
        """
        self._epoch_ended = self._resumed = False
        trainer = trainer_of(state)
        self._trainer = None if trainer is None else weakref.ref(trainer)
        if trainer is None or saved is None or folder is None or not hasattr(trainer, "_tr_loss"):
            return
        self._resumed, self._epoch_ended = True, saved["epoch_ended"]
        losses = [float(loss) for loss in saved["losses"]]
        same = len(losses) == trainer.args.world_size
        trainer._tr_loss.fill_(losses[trainer.args.process_index] if same else sum(losses) / len(losses))
        trainer._globalstep_last_logged = saved["logged"]
        trainer._total_loss_scalar = float(saved["total"])
        ended = state.global_step >= state.max_steps or _stopped_early(trainer)
        if not self._epoch_ended and (ended or float(state.epoch or 0.5).is_integer()):
            self._end_epoch(trainer, saved, folder)
        if ended:
            _train_no_more(trainer)

    @property
    def trainer(self) -> Trainer | None:
        """The Trainer, while it trains and where it was found."""
        return None if self._trainer is None else self._trainer()

    def end(self) -> None:
        """At ``on_train_end``."""
        trainer = self.trainer
        if trainer is not None:
            for name in ("_run_epoch", "_load_rng_state"):
                vars(trainer).pop(name, None)

    def on_step_begin(self) -> None:
        self._epoch_ended = False

    def on_epoch_end(self) -> None:
        self._epoch_ended = True

    def on_log(self, state: TrainerState, logs: dict[str, Any]) -> None:
        """Has the mean loss at the end be that of the whole run."""
        trainer = self.trainer
        if self._resumed and trainer is not None and "train_loss" in logs:
            logs["train_loss"] = trainer._total_loss_scalar / max(state.global_step, 1)
            if state.log_history and "train_loss" in state.log_history[-1]:
                state.log_history[-1]["train_loss"] = logs["train_loss"]

    def note(self) -> dict[str, Any] | None:
        """What to keep in a checkpoint, as JSON values; all processes have to ask. None of an older Trainer."""
        trainer = self.trainer
        known = trainer is not None and hasattr(trainer, "_tr_loss")
        losses = gathered(trainer._tr_loss.item() if trainer is not None and known else 0.0)
        if trainer is None or not known:
            return None
        local = next((f.f_locals for f in _frames() if f.f_code.co_name == "_maybe_log_save_evaluate"), {})
        norm = local.get("grad_norm")
        return {
            "losses": [_as_json(loss) for loss in losses],
            "logged": trainer._globalstep_last_logged,
            "total": _as_json(trainer._total_loss_scalar),
            "epoch_ended": self._epoch_ended,
            "grad_norm": None if norm is None else _as_json(float(norm)),
            "learning_rate": local.get("learning_rate"),
        }

    def _end_epoch(self, trainer: Any, saved: dict[str, Any], folder: Path) -> None:
        """What the stopped run had still to do at the end of its epoch: log, evaluate, save, as it was asked for."""
        trainer._load_rng_state(str(folder))  # evaluation may draw, and what follows draws after it
        norm = None if saved["grad_norm"] is None else float(saved["grad_norm"])
        control = trainer.control
        control.should_log = control.should_evaluate = control.should_save = False  # done before the checkpoint
        trainer.control = trainer.callback_handler.on_epoch_end(trainer.args, trainer.state, control)
        trainer._maybe_log_save_evaluate(
            trainer._tr_loss, norm, trainer.model_wrapped, None, trainer.state.epoch, None, time.time(),
            learning_rate=saved["learning_rate"],
        )  # fmt: skip
        self._epoch_ended = False

        def drawn(checkpoint: str | None) -> None:
            del trainer._load_rng_state

        trainer._load_rng_state = drawn


def _as_json(value: float) -> float | str:
    """NaN and infinity, which are not JSON, as words that ``float`` reads."""
    return value if math.isfinite(value) else str(value)


def gathered(value: float) -> list[float]:
    """A number of each process, by rank; returns when all have come here."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def _stopped_early(trainer: Trainer) -> bool:
    stops = [one for one in trainer.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]
    return any(one.early_stopping_patience_counter >= one.early_stopping_patience for one in stops)


def _train_no_more(trainer: Any) -> None:
    """Has the loop over epochs, which Trainer enters for what is left of an epoch, end at once."""

    def ended(**kwargs: Any) -> None:
        del trainer._run_epoch
        trainer.control.should_training_stop = True

    trainer._run_epoch = ended


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def trainer_of(state: TrainerState) -> Trainer | None:
    """The running trainer that has this state."""
    return next((one for one in _trainers() if one.state is state), None)


def _trainers() -> Iterator[Trainer]:
    """The trainers whose methods are running."""
    for frame in _frames():
        if isinstance(one := frame.f_locals.get("self"), Trainer):
            yield one
