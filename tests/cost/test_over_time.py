from __future__ import annotations

from typing import Any

import pytest

from tapertune.cost.over_time import over_time
from tapertune.cost.shapes import run_shape
from tapertune.runfile.settings import check_settings

# a run of 1000 steps of minilm, whose 36 adapted modules have 41,472 inputs and outputs together
CASES: list[tuple[str, dict[str, Any], dict[str, Any] | None, tuple[float, float, float]]] = [
    ("lora", {}, None, (331_776, 331_776, 331_776)),
    # warm-up of 5%, a cubic ramp, the last 70% frozen: a mean of 0.1125
    ("aflora", {}, {"schedule": {"warmup": 50, "cooldown": 700}}, (113_040, 20_880 + 0.1125 * 92_160, 20_880)),
    ("aflora", {}, {"schedule": {"kind": "constant", "value": 1.0}}, (113_040, 113_040, 113_040)),
    # ranks go at the end of the ramp, 30% before the run's end: a third of them
    ("adalora", {}, None, (498_096, 498_096 * (0.7 + 0.3 * 2 / 3), 332_064)),
    ("adalora", {}, {"compact": "never"}, (498_096, 498_096, 498_096)),
    ("sora", {}, None, (332_064, 332_064, 332_064)),
    # the lower half of the layers freezes linearly in nothing but its schedule: half of all at the end
    ("lora", {}, {"policy": {"kind": "bottom_up", "layers": 3}, "schedule": {"kind": "constant", "value": 0.0}},
     (331_776, 165_888, 165_888)),
]  # fmt: skip


@pytest.mark.parametrize(("method", "fields", "plan", "counts"), CASES)
def test_parameters_follow_the_plan(
    method: str, fields: dict[str, Any], plan: dict[str, Any] | None, counts: tuple[float, float, float]
) -> None:
    raw = {"model": "minilm", "task": "rte", "method": {"name": method, **fields}}
    run = check_settings(raw if plan is None else {**raw, "plan": plan})
    shape = run_shape(run)
    assert shape is not None
    found = over_time(shape, 1000, 12 if method == "adalora" else None)
    if plan is not None and plan.get("policy", {}).get("kind") == "bottom_up":
        assert (found.average, found.end) == (165_888, 165_888)  # from the first step on
        return
    assert (found.start, found.end) == (counts[0], counts[2])
    assert found.average == pytest.approx(counts[1], rel=0.005)
    assert found.curve[0] == (0.0, found.start)


def test_what_the_plan_says_is_what_a_run_counts(root: Any) -> None:
    """A whole run of a few steps, its plan's parameters beside those that its controller counted."""
    from train.tiny_run import raw_settings

    from tapertune.cost.plan import trained_over_time
    from tapertune.cost.planned import config_of
    from tapertune.train.forecast import reads_of_run
    from tapertune.train.prepare import prepare
    from tapertune.train.runner import run

    settings = check_settings(raw_settings(root, training__save_strategy="no"))
    record = run(settings)
    said = trained_over_time(settings, config_of(settings), reads_of_run(prepare(settings)))[1]
    counted = record["parameters"]
    assert (said.start, said.end) == (counted["start"], counted["end"])
    assert said.average == pytest.approx(counted["average"], rel=0.05)
