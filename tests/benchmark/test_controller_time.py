from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from tapertune.benchmark.base_models import Base
from tapertune.benchmark.controller_time import controller_seconds, growth
from tapertune.benchmark.schema import Origin
from tapertune.benchmark.setting import Setting
from tapertune.benchmark.variants import build
from tapertune.runfile.record import Git

ORIGIN = Origin(source="x", git=Git(commit=None, dirty=None))


def test_the_controller_is_a_part_of_the_optimizers_step(base: Base, setting: Setting) -> None:
    candidate = build("ours-adalora", base)
    controller, whole = controller_seconds(candidate, base, setting)
    assert 0 < controller < whole
    assert candidate.batch is base.batch
    step = candidate.controller.step  # type: ignore[union-attr]
    candidate.step()
    assert candidate.controller.step == step + 1  # type: ignore[union-attr]  # it is attached as before, once


class Operations(TorchDispatchMode):
    """Counts the calls of torch's operations."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def controller_operations(variant: str, base: Base) -> int:
    """What a controller adds to a step that does not decide, in calls."""
    candidate = build(variant, base)
    controller, optimizer = candidate.controller, candidate.optimizer
    assert controller is not None and optimizer is not None
    counts = []
    for attached in (True, False):
        if not attached:
            controller.detach()
        for _ in range(2):  # the first makes the optimizer's state
            candidate.loss().backward()
            with Operations() as operations:
                optimizer.step()
        counts.append(operations.count)
    return counts[0] - counts[1]


def test_a_method_without_a_plan_costs_next_to_nothing(base: Base) -> None:
    """The one look for what is not finite, over all gradients at once, whereas scores are taken factor by factor."""
    plain, scored = controller_operations("ours-lora", base), controller_operations("ours-adalora", base)
    assert 0 < plain < scored / 5


def test_growth_counts_modules(setting: Setting) -> None:
    found = growth("bert-2x128", "ours-aflora", setting, ORIGIN)
    assert found.modules == 12 and found.controller_seconds > 0 and found.optimizer_seconds > 0
