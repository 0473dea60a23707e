from __future__ import annotations

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


def test_a_method_without_a_plan_costs_next_to_nothing(base: Base, setting: Setting) -> None:
    plain, _ = controller_seconds(build("ours-lora", base), base, setting)
    scored, _ = controller_seconds(build("ours-adalora", base), base, setting)
    assert plain < scored / 5


def test_growth_counts_modules(setting: Setting) -> None:
    found = growth("bert-2x128", "ours-aflora", setting, ORIGIN)
    assert found.modules == 12 and found.controller_seconds > 0 and found.optimizer_seconds > 0
