"""Steps whose gradients hold NaN or infinity: they are left out, as if they had not been, and counted.

To leave a step out, its gradients are looked at before it, for which an accelerator would be waited for at each step.
Unless that is asked for, what is found there stays on the device, and is read when a state is saved, something is
logged, or training ends: a run whose weights are spoiled stops there, and no checkpoint holds them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import TapertuneError
from .optimizers import groups
from .sharding import is_sharded

MOST_IN_A_ROW = 5
AUTO = "auto"
"""A limit of 5 on a processor; on an accelerator, none is left out, and training ends at the next look."""

Limit = int | str | None
_LINES = 3  # of the log; what follows is counted
_FUSED: Any = torch
_log = logging.getLogger("tapertune")


class Diverged(ArithmeticError):
    """More steps in a row than a run allows had gradients that are not finite."""


class FiniteSteps:
    """Looks at the gradients of an optimizer's step before it, and drops them all where one is not finite: without
    gradients, optimizers leave weights, moments and weight decay as they are.

    Args:
        limit: steps in a row that may be left out; one more ends training. 0: none may. ``auto``: see there. None:
            gradients are not looked at.

    Attributes:
        skipped: steps left out so far.
        in_a_row: of these, the last ones without another step between.
        last: whether the last step was.
    """

    def __init__(self, limit: Limit = AUTO) -> None:
        if limit not in (None, AUTO) and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise TapertuneError(
                f"max_skipped_steps is {limit!r}; it must be a whole number, 0 or more, {AUTO!r} or None"
            )
        self.limit = MOST_IN_A_ROW if isinstance(limit, str) else limit
        self.skipped, self.in_a_row, self.last = 0, 0, False
        self._waits = limit != AUTO
        self._unread: dict[torch.device, Tensor] = {}

    def leaves_out(
        self, optimizer: Any, names: Callable[[], Mapping[int, str]], step: int, saved: str | None = None
    ) -> str | None:
        """Before a step: drops the gradients if one is not finite, and returns whose it was; else None.

        Args:
            optimizer: that is about to step.
            names: gives those of parameters, by identity; called where a gradient is not finite.
            step: the step's index, for messages.
            saved: the folder of the last checkpoint, for messages.

        Raises:
            Diverged: too many steps in a row.
        """
        if self.limit is None:
            return None
        parameters = [p for group in groups(optimizer) for p in group["params"] if p.grad is not None]
        if not self._waits and any(_local(p.grad).device.type != "cpu" for p in parameters):
            for flag in _flags([p.grad for p in parameters]):
                self._unread[flag.device] = self._unread.get(flag.device, flag) | flag
            return None
        self.last = _any_not_finite([p.grad for p in parameters])
        if not self.last:
            self.in_a_row = 0
            return None
        bad = (p for p in parameters if not torch.isfinite(_local(p.grad)).all())
        known = names()
        where = next((known.get(id(p), "a parameter outside of the adapter") for p in bad), "another process")
        for parameter in parameters:
            parameter.grad = None
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row > self.limit:
            last = f"the last checkpoint is {saved}" if saved else "there is no checkpoint yet"
            raise Diverged(
                f"training diverged: at step {step} the gradients are not finite (first in {where}), for the "
                f"{self.in_a_row}th time in a row (max_skipped_steps is {self.limit}); {last}"
            )
        if self.skipped <= _LINES:
            _log.warning("step %d is left out: its gradients are not finite (first in %s)", step, where)
        return where

    def check(self, saved: str | None = None) -> None:
        """Reads what was found on an accelerator since the last look, and waits for it.

        Args:
            saved: the folder of the last checkpoint, for messages.

        Raises:
            Diverged: the gradients of some step were not finite, and it was made.
        """
        flags, self._unread = self._unread, {}
        if any(bool(flag) for flag in flags.values()):
            last = f"the last checkpoint is {saved}" if saved else "there is no checkpoint yet"
            raise Diverged(
                f"training diverged: the gradients of a step since the last look were not finite; {last}. With "
                f"max_skipped_steps={MOST_IN_A_ROW}, such steps are left out, and each step waits for the device"
            )

    def state(self) -> list[int]:
        return [self.skipped, self.in_a_row]

    def load(self, saved: list[int]) -> None:
        self.skipped, self.in_a_row = saved


def _local(gradient: Any) -> Tensor:
    if is_sharded(gradient):
        return gradient.to_local()
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _flags(gradients: list[Any]) -> list[Tensor]:
    """For each device, whether a gradient there is not finite; nothing is waited for."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for gradient in map(_local, gradients):
        if gradient.numel():
            by_device.setdefault(gradient.device, []).append(gradient)
    norms = [_FUSED._foreach_norm(alike, math.inf) for alike in by_device.values()]
    return [~torch.isfinite(torch.stack([norm.float() for norm in each]).max()) for each in norms]


def _any_not_finite(gradients: list[Any]) -> bool:
    """Whether any is not finite, in any process. One look at the device, whose work is waited for."""
    found = False
    for flag in _flags(gradients):
        found = bool(flag) or found
    if any(map(is_sharded, gradients)) and torch.distributed.is_initialized():
        flag = torch.tensor(int(found), device=_local(gradients[0]).device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        found = bool(flag)
    return found
