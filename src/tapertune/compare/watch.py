"""What a grid follows of a run while it trains: processor time, losses, and whether there is any hope."""

from __future__ import annotations

import math
import time
from typing import Any

from transformers import TrainerControl, TrainerState

from ..train.progress import Display


class Watch(Display):
    """Adds up the processor time of training steps, which a process does not spend while it waits for others, keeps
    the logged losses, and ends a run without hope.

    A run has none when its loss is no finite number, or, with ``stop``, when after that share of its steps the mean of
    the last fifth of its logged losses is not below the mean of the first fifth.
    """

    def __init__(self, stop: float | None = None) -> None:
        super().__init__()
        self.cpu_seconds = 0.0
        self.losses: list[tuple[int, float]] = []
        self.stopped: str | None = None
        self._stop, self._begun = stop, 0.0

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._begun = time.process_time()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.cpu_seconds += time.process_time() - self._begun
        if self._stop is not None and state.global_step >= self._stop * state.max_steps and self.stopped is None:
            if state.global_step < state.max_steps and not self._falls():
                self.stopped = f"the loss had not fallen by step {state.global_step} of {state.max_steps}"
                control.should_training_stop = True
            self._stop = None  # looked at once

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().on_log(args, state, control, logs, **kwargs)
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if math.isfinite(loss):
            self.losses.append((state.global_step, float(loss)))
        elif self.stopped is None:
            self.stopped = f"the loss was {loss} at step {state.global_step} of {state.max_steps}"
            control.should_training_stop = True

    def _falls(self) -> bool:
        values = [loss for _, loss in self.losses]
        part = max(1, len(values) // 5)
        if len(values) < 2 * part:  # too little is known
            return True
        return sum(values[-part:]) < sum(values[:part])

    def curve(self, most: int = 40) -> list[tuple[int, float]]:
        """The losses as at most so many points, each the mean of a stretch, at its last step."""
        size = max(1, -(-len(self.losses) // most))
        parts = [self.losses[start : start + size] for start in range(0, len(self.losses), size)]
        return [(part[-1][0], round(sum(loss for _, loss in part) / len(part), 5)) for part in parts]
