"""What a controller costs: the time between two hooks of ours on either side of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..host.layer import ChainLayer
from .base_models import Base, make_base
from .candidate import Candidate
from .schema import Growth, Origin
from .setting import Setting
from .timing import clock_of, no_collection, now_of
from .variants import build

_STEPS = 20  # of which two decide


class _Stopwatch:
    """Adds up the time between its two hooks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.total, self.begun = clock, 0.0, 0.0

    def begin(self, *_: Any) -> None:
        self.begun = self.clock()

    def end(self, *_: Any) -> None:
        self.total += self.clock() - self.begun


def controller_seconds(candidate: Candidate, base: Base, setting: Setting) -> tuple[float, float]:
    """(what the controller does, all of the optimizer's step with it), seconds of a step, means of some."""
    controller, optimizer = candidate.controller, candidate.optimizer
    assert controller is not None and optimizer is not None
    candidate.batch = base.small_batch()
    candidate.loss().backward()
    watch = _Stopwatch(now_of(setting))
    controller.detach()
    hooks = [optimizer.register_step_pre_hook(watch.begin), optimizer.register_step_post_hook(watch.begin)]
    controller.attach(optimizer)
    hooks += [optimizer.register_step_pre_hook(watch.end), optimizer.register_step_post_hook(watch.end)]
    optimizer.step()
    watch.total = 0.0
    with no_collection():
        whole = sum(clock_of(setting)(optimizer.step) for _ in range(_STEPS))
    for hook in hooks:
        hook.remove()
    optimizer.zero_grad()
    candidate.batch = base.batch
    return watch.total / _STEPS, whole / _STEPS


def growth(model: str, variant: str, setting: Setting, origin: Origin) -> Growth:
    """What a subject's controller costs in a model, with the number of its modules."""
    base = make_base(model, setting)
    candidate = build(variant, base)
    modules = sum(isinstance(module, ChainLayer) for module in candidate.model.modules())
    controller, whole = controller_seconds(candidate, base, setting)
    return Growth(
        model=model, subject=variant, origin=origin, modules=modules,
        controller_seconds=controller, optimizer_seconds=max(whole - controller, 0.0),
    )  # fmt: skip
