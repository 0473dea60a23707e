"""Notices that a run learns nothing: its training loss does not fall, or all rows of its first evaluation get the same
answer."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..methods.rates import SuggestedRate, written

_SHARE, _LEAST = 0.1, 40  # of a run's steps whose loss is looked at, and how many at least
_FLAT = 0.03  # a fall of less than this share, with its error, is none
_ROWS = 16  # an evaluation of fewer tells nothing
_NEAR = 2.5  # a rate within this factor of the rule's is not what is wrong
_log = logging.getLogger("tapertune")


class LearningWatch(TrainerCallback):
    """Says once, in a line, that a run learns nothing, what the likely cause is and what rate to try.

    Args:
        name: of what learns: the method's.
        rule: what its rule says of the run; None where that is not known.
        say: told the line; without it, it is logged as a warning of ``tapertune``.
    """

    def __init__(self, name: str, rule: SuggestedRate | None = None, say: Callable[[str], None] | None = None) -> None:
        self.name, self.rule, self._say = name, rule, say or _log.warning
        self._hook: Any = None
        self._losses: list[Tensor] = []
        self._logged: list[float] = []
        self._answers = _Answers()
        self._rate = 0.0
        self._until = 0  # the step after which the loss is looked at; 0: it is not
        self._silent = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.stop()
        self._losses, self._logged, self._answers = [], [], _Answers()
        steps = max(math.ceil(state.max_steps * _SHARE), _LEAST)
        fresh = state.global_step == 0
        self._until = steps if fresh and 2 * steps <= state.max_steps else 0
        self._silent = not state.is_world_process_zero or any("eval_loss" in entry for entry in state.log_history)
        group = getattr(kwargs.get("optimizer"), "param_groups", [{}])[0]
        self._rate = float(group.get("initial_lr", group.get("lr")) or args.learning_rate)
        if not self._silent:
            self._hook = kwargs["model"].register_forward_hook(self._look, with_kwargs=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._until and state.global_step >= self._until:
            losses = torch.stack(self._losses).tolist() if self._losses else self._logged
            self._losses, steps, self._until = [], self._until, 0
            if (ends := flat(losses)) is not None:
                self._tell(
                    f"the training loss has not fallen over the first {steps} of {state.max_steps} steps"
                    f" ({ends[0]:.4g} to {ends[1]:.4g})"
                )

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if "loss" in (logs := kwargs.get("logs") or {}):
            self._logged.append(float(logs["loss"]))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._hook is not None and (what := self._answers.same()) is not None:
            self._tell(f"at step {state.global_step} every row of the evaluation gets {what}")
        self.stop()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Looks at nothing more."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def _look(self, module: Any, inputs: Any, given: dict[str, Any], output: Any) -> None:
        if module.training:
            loss = _part(output, "loss")
            if self._until and isinstance(loss, Tensor) and loss.numel():
                self._losses.append(loss.detach().float().mean())
        elif isinstance(logits := _part(output, "logits"), Tensor) and logits.dim() == 2:
            self._answers.add(logits.detach(), given.get("labels"))

    def _tell(self, what: str) -> None:
        if not self._silent:
            self._silent = True
            self._say(f"{what}: {self.name} learns nothing so far. {self._cause()}")

    def _cause(self) -> str:
        rate, rule = written(self._rate), self.rule
        if rule is None:
            return f"Likely the learning rate, {rate}, is too low or too high: try three times as much, or a third"
        if rule / _NEAR <= self._rate <= rule * _NEAR:
            other = min(3 * rule, rule.high)
            return (
                f"The learning rate, {rate}, is a usual one: it may take more steps or {written(other)}; else look at "
                "the labels, and at where texts are cut"
            )
        side = "low" if self._rate < rule else "high"
        return f"Likely the learning rate, {rate}, is too {side} for a run of this length: try {written(rule)}"


class _Answers:
    """What the rows of an evaluation get."""

    def __init__(self) -> None:
        self.rows, self.classes = 0, 0
        self.found: set[int] = set()
        self.labels: set[float] = set()
        self.least, self.most = math.inf, -math.inf

    def add(self, logits: Tensor, labels: Any) -> None:
        self.rows, self.classes = self.rows + logits.shape[0], logits.shape[1]
        if self.classes > 1:
            self.found.update(logits.argmax(-1).unique().tolist())
        elif logits.numel():
            self.least = min(self.least, float(logits.min()))
            self.most = max(self.most, float(logits.max()))
        if isinstance(labels, Tensor) and labels.dim() == 1:
            self.labels.update(labels.unique().tolist())

    def same(self) -> str | None:
        """What every row gets, where that is one class, or one number, and not right."""
        if self.rows < _ROWS or len(self.labels) == 1:
            return None
        if self.classes == 1:
            narrow = self.most - self.least <= 1e-3 * max(1.0, abs(self.most))
            return f"one number, {self.most:.3g}" if narrow else None
        return f"one class, number {next(iter(self.found))}" if len(self.found) == 1 else None


def flat(losses: list[float]) -> tuple[float, float] | None:
    """The mean of the first third and of the last, where they tell that losses do not fall; None where they fall, or
    where too few or too uneven ones tell nothing.

    >>> flat([0.7, 0.69] * 10) is not None, flat([1.0 - step / 30 for step in range(20)])
    (True, None)
    """
    third = len(losses) // 3
    if third < 2 or not all(map(math.isfinite, losses)):
        return None
    first, last = losses[:third], losses[-third:]
    means = sum(first) / third, sum(last) / third
    spread = sum(sum((x - mean) ** 2 for x in part) for part, mean in zip((first, last), means, strict=True))
    error = math.sqrt(spread / (third - 1) / third)
    return means if means[0] - means[1] + error < _FLAT * abs(means[0]) else None


def _part(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, dict) else getattr(output, name, None)
