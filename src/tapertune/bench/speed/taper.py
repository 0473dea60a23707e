"""A whole run of a plan: what a step costs as training goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from .contestant import floor, repeatable
from .models import Base
from .ours import adapted, attached
from .schema import Bin, Origin, Taper
from .setting import Setting
from .timing import clock_of, ratios, spread

_RUN = {"kind": "cubic", "warmup": 0.2, "cooldown": 0.3, "every": 1}
# Subject by name: the method whose plan runs, with its settings.
TAPERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours-aflora": ("aflora", {"r": 4, "projection_scope": "all"}),
    "ours-adalora": ("adalora", {"init_r": 12, "target_r": 4}),
}


def taper(
    base: Base, subject: str, model: str, setting: Setting, origin: Origin, *, steps: int, bins: int = 10,
    progress: Callable[[], None] = lambda: None,
) -> Taper:  # fmt: skip
    """Runs a plan from its first step to its last, with a step of the floor after each."""
    method, settings = TAPERS[subject]
    with repeatable():
        contestant = attached(adapted(base, method, settings), {"schedule": _RUN}, steps)
    reference = floor(base)
    seconds = clock_of(setting)
    reference.step()
    times, floors, trained = [], [], []
    for _ in range(steps):
        trained.append(sum(p.numel() for p in contestant.trained()))
        times.append(seconds(contestant.step))
        floors.append(seconds(reference.step))
        progress()
    each = ratios(times, floors)
    edges = [round(i * steps / bins) for i in range(bins + 1)]
    made = [
        Bin(first=a, last=b - 1, ratio=spread(each[a:b]), trained=trained[b - 1]) for a, b in itertools.pairwise(edges)
    ]
    return Taper(model=model, subject=subject, origin=origin, steps=steps, bins=made)
