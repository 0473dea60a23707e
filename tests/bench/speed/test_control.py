from __future__ import annotations

from tapertune.bench.results import Git
from tapertune.bench.speed.control import controller_seconds, growth
from tapertune.bench.speed.models import Base
from tapertune.bench.speed.schema import Origin
from tapertune.bench.speed.setting import Setting
from tapertune.bench.speed.subjects import build

ORIGIN = Origin(source="x", git=Git(commit=None, dirty=None))


def test_the_controller_is_a_part_of_the_optimizers_step(base: Base, setting: Setting) -> None:
    contestant = build("ours-adalora", base)
    controller, whole = controller_seconds(contestant, base, setting)
    assert 0 < controller < whole
    assert contestant.batch is base.batch
    step = contestant.controller.step  # type: ignore[union-attr]
    contestant.step()
    assert contestant.controller.step == step + 1  # type: ignore[union-attr]  # it is attached as before, once


def test_a_method_without_a_plan_costs_next_to_nothing(base: Base, setting: Setting) -> None:
    plain, _ = controller_seconds(build("ours-lora", base), base, setting)
    scored, _ = controller_seconds(build("ours-adalora", base), base, setting)
    assert plain < scored / 5


def test_growth_counts_modules(setting: Setting) -> None:
    found = growth("bert-2x128", "ours-aflora", setting, ORIGIN)
    assert found.modules == 12 and found.controller_seconds > 0 and found.optimizer_seconds > 0
