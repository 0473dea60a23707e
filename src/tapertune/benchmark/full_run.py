"""A whole run of a plan: what a step costs as training goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .base_models import Base
from .candidate import frozen_reference, repeatable
from .ours import adapted, attached
from .schema import Bin, FullRun, Origin
from .setting import Setting
from .timing import clock_of, ratios, spread

_RUN = {"kind": "cubic", "warmup": 0.2, "cooldown": 0.3, "every": 1}
_UPWARD = {
    "policy": {"kind": "bottom_up", "layers": 0.85},
    "schedule": {"kind": "quadratic", "warmup": 0.1, "cooldown": 0.2, "every": 1},
}


@dataclass(frozen=True, kw_only=True)
class FullRunRow:
    """A row of ``FULL_RUNS``.

    Attributes:
        what: the run in a few words.
        method, settings: what is trained.
        plan: what is different from the method's own plan.
        grounded: the embeddings require no gradient, as in training: backward ends at the lowest layer that trains.
            Otherwise it goes through the whole model, as the floor does.
    """

    what: str
    method: str
    settings: dict[str, Any]
    plan: dict[str, Any]
    grounded: bool = False


# By the name of the variant whose run it is.
FULL_RUNS: dict[str, FullRunRow] = {
    "ours-lora": FullRunRow(
        what="LoRA r=8, layers freeze from the bottom up", method="lora", settings={"r": 8}, plan=_UPWARD, grounded=True
    ),
    "ours-aflora": FullRunRow(
        what="AFLoRA r=4", method="aflora", settings={"r": 4, "projection_scope": "all"}, plan={"schedule": _RUN}
    ),
    "ours-adalora": FullRunRow(
        what="AdaLoRA r=12 to 4", method="adalora", settings={"init_r": 12, "target_r": 4}, plan={"schedule": _RUN}
    ),
}


def full_run(
    base: Base, variant: str, model: str, setting: Setting, origin: Origin, *, steps: int, bins: int = 10,
    progress: Callable[[], None] = lambda: None,
) -> FullRun:  # fmt: skip
    """Runs a plan from its first step to its last, with a step of the floor after each."""
    row = FULL_RUNS[variant]
    with repeatable():
        candidate = attached(adapted(base, row.method, row.settings), row.plan, steps)
    if row.grounded:
        candidate.model.get_input_embeddings()._forward_hooks.clear()
    reference = frozen_reference(base)
    seconds = clock_of(setting)
    reference.step()
    times, floors, trained = [], [], []
    for _ in range(steps):
        trained.append(sum(p.numel() for p in candidate.trained()))
        times.append(seconds(candidate.step))
        floors.append(seconds(reference.step))
        progress()
    each = ratios(times, floors)
    edges = [round(i * steps / bins) for i in range(bins + 1)]
    parts = [
        Bin(first=a, last=b - 1, ratio=spread(each[a:b]), trained=trained[b - 1]) for a, b in itertools.pairwise(edges)
    ]
    return FullRun(model=model, subject=variant, origin=origin, steps=steps, bins=parts)
