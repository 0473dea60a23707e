"""What a run shows while it trains: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState

from ..cost.weights import sizes
from ..report.numbers import duration
from .baseline_events import timeless
from .distributed import is_first

Counts = Callable[[], tuple[int, int, int]]


class Display(TrainerCallback):
    """Follows a run. It is a context, so that the terminal is left in order however the run ends."""

    def __init__(self) -> None:
        self._counts: Counts = lambda: (0, 0, 0)
        self._all = 1
        self._loss: float | None = None
        self._rate: float | None = None

    def watch(self, counts: Counts) -> None:
        """Tells where to read (parameters that train now, matrices frozen, matrices that could freeze)."""
        self._counts = counts

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the display."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._all = sum(sizes(kwargs["model"]).values())

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._loss = (logs or {}).get("loss", self._loss)

        self._rate = (logs or {}).get("learning_rate", self._rate)

    def on_evaluate(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        scores = "  ".join(f"{name} {value:.4f}" for name, value in timeless(metrics or {}).items())
        self.show(f"epoch {state.epoch or 0:.3g}  step {state.global_step}/{state.max_steps}  {scores}")

    def show(self, text: str) -> None:
        """Shows a line that stays."""

    def line(self) -> str:
        """Loss, trainable share and frozen matrices in a few words."""
        trainable, frozen, freezable = self._counts()
        parts = [] if self._loss is None else [f"loss {self._loss:.4f}"]
        parts += [] if self._rate is None else [f"rate {self._rate:.1e}"]
        parts.append(f"trainable {trainable:,} ({trainable / self._all:.2%})")
        if freezable:
            parts.append(f"frozen {frozen}/{freezable}")
        return "  ".join(parts)


class LiveDisplay(Display):
    """A bar that stays on one line."""

    def __init__(self, name: str, console: Console) -> None:
        super().__init__()
        line = TextColumn("{task.fields[line]}")
        self._progress = Progress(
            TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), line, console=console
        )
        self._task: TaskID | None = None

    def close(self) -> None:
        self._progress.stop()

    def show(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self._task = self._progress.add_task("", total=state.max_steps, completed=state.global_step, line="")
        self._progress.start()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=state.global_step, line=self.line())

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.close()


class LineDisplay(Display):
    """A line at each of Trainer's logging steps, for logs and pipes."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._begun, self._first = time.monotonic(), 0

    def show(self, text: str) -> None:
        print(f"{self._name}  {text}", flush=True)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self._begun, self._first = time.monotonic(), state.global_step

    def _left(self, state: TrainerState) -> str:
        """The time that the steps to come take if they take what the others took, evaluations among them."""
        taken = (time.monotonic() - self._begun) / max(1, state.global_step - self._first)
        left = taken * (state.max_steps - state.global_step)
        return f"  {duration(left)} left" if left else ""

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().on_log(args, state, control, logs, **kwargs)
        if "loss" in (logs or {}):
            print(
                f"{self._name}  step {state.global_step}/{state.max_steps}  {self.line()}{self._left(state)}",
                flush=True,
            )


def display_for(name: str) -> Display:
    """The display that suits the standard output; one that shows nothing where another process shows the run."""
    if not is_first():
        return Display()
    console = Console()
    return LiveDisplay(name, console) if console.is_terminal and sys.stdout.isatty() else LineDisplay(name)
