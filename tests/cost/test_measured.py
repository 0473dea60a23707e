from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from train.tiny_run import raw_settings

import tapertune
from tapertune.cost.measured import State, Tokens, base_flops, run_flops, run_states
from tapertune.cost.trace import calls
from tapertune.events import Event
from tapertune.runfile.settings import check_settings
from tapertune.train.models import build

LENGTH, ROWS = 8, 4
# Hidden 16, feed-forward 32, two layers: matrices of a layer, and a pooler that sees one token a row.
LAYER, POOLER = 4 * 16 * 16 + 2 * 16 * 32, 16 * 16
ATTENTION = 4 * LENGTH * 16


def built(root: Path, method: str, **changes: Any) -> Any:
    settings = check_settings(raw_settings(root, method, **changes))
    parts = build(settings, settings.task.declaration())
    parts.model.set_attn_implementation("eager")
    return settings, parts


def counted(model: torch.nn.Module, backward: bool = True, rows: int = 1) -> int:
    ids = torch.ones((rows, LENGTH), dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        loss = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.zeros(rows, dtype=torch.long)
        ).loss
        if backward:
            loss.backward()
    return counter.get_total_flops()


def base(parts: Any) -> dict[str, float]:
    return base_flops(parts.model, calls(parts.model, parts.head, LENGTH), LENGTH)


def test_the_forward_pass_in_closed_form_and_as_torch_counts_it(shared_root: Path) -> None:
    _, parts = built(shared_root, "full")
    forward = base(parts)["base_forward"]
    assert forward == 2 * (2 * LAYER + ATTENTION)  # two layers; the fresh pooler is of the head
    head = 2 * (POOLER + 2 * 16)
    assert counted(parts.model, backward=False) == forward * LENGTH + head


@pytest.mark.parametrize("method", ["full", "head"])
def test_training_without_an_adapter_is_what_torch_counts(shared_root: Path, method: str) -> None:
    settings, parts = built(shared_root, method)
    found = base(parts)
    assert found["head"] * LENGTH == (6 if method == "full" else 4) * POOLER + 6 * 2 * 16
    assert counted(parts.model) == pytest.approx(sum(found.values()) * LENGTH, rel=1e-12)
    tokens = Tokens(tokens=10 * LENGTH, rows=10, passes=5)
    flops = run_flops(settings, parts.model, parts.head, tokens, [], 5)
    assert flops.total == pytest.approx(10 * counted(parts.model))
    assert flops.total == pytest.approx(10 * LENGTH * sum(flops.per_token.values()))


@pytest.mark.parametrize(
    ("target", "back"),
    [
        # the input gradients of what is behind, and the attention's products that lead to what trains
        ("query", 2 * LAYER - 3 * 2 * 16 * 16 + ATTENTION),
        ("value", 2 * LAYER - 3 * 2 * 16 * 16 + ATTENTION / 2),
        ("intermediate.dense", 2 * (LAYER - 4 * 16 * 16 - 16 * 32)),
    ],
)
def test_nothing_flows_back_below_what_trains(shared_root: Path, target: str, back: float) -> None:
    _, parts = built(shared_root, "lora", method__target_modules=[target], method__layers_to_transform=[1])
    assert base(parts)["base_input_grad"] == back


RAMP = {"kind": "cubic", "warmup": 2, "cooldown": 3, "every": 2}
STEPS = 12
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {}),
    "aflora": ("aflora", {"plan": {"schedule": RAMP}}),
    "adalora": ("adalora", {"method__init_r": 6, "plan": {"schedule": RAMP}}),
    "adalora, ranks leave at once": (
        "adalora",
        {"method__init_r": 6, "plan": {"schedule": RAMP, "compact": "on_event"}},
    ),
    "lora2": ("lora2", {"plan": {"schedule": RAMP}}),
    "loran": ("loran", {}),
    "sora": ("sora", {}),
    "elora": ("elora", {}),
    **{
        f"{method}, layers freeze, fold {fold}": (
            method,
            {"plan": {"policy": {"kind": "bottom_up", "merge_frozen": fold}, "schedule": RAMP}},
        )
        for method in ("lora", "loran", "elora")
        for fold in (True, False)
    },
    "aflora, both": (
        "aflora",
        {"plan": [{"schedule": {**RAMP, "cooldown": 6}}, {"policy": {"kind": "bottom_up"}, "schedule": RAMP}]},
    ),
    "lora with dropout, layers freeze": (
        "lora",
        {"method__dropout": 0.1, "plan": {"policy": {"kind": "bottom_up"}, "schedule": RAMP}},
    ),
}


def trained(parts: Any) -> tuple[list[int], list[Event]]:
    """What torch counts in each step of a run, and the run's events."""
    events: list[Event] = []

    def note(type: str, step: int, **fields: Any) -> None:
        events.append({"v": 1, "type": type, "step": step, **fields})

    model = parts.model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    controller = tapertune.attach(model, optimizer, total_steps=STEPS, events=note)
    steps = []
    for _ in range(STEPS):
        steps.append(counted(model, rows=ROWS))
        optimizer.step()
        optimizer.zero_grad()
    controller.finish()
    return steps, events


@pytest.mark.parametrize("run", RUNS)
def test_a_run_is_what_torch_counts_step_by_step(shared_root: Path, run: str) -> None:
    method, changes = RUNS[run]
    settings, parts = built(shared_root, method, **changes)
    steps, events = trained(parts)
    if "layers freeze" in run:
        assert steps[-1] < 0.8 * steps[0], "backward has ended above the lower layer"
    for done in range(1, STEPS + 1):
        tokens = Tokens(tokens=done * ROWS * LENGTH, rows=done * ROWS, passes=done)
        so_far = [event for event in events if event["step"] < done]
        flops = run_flops(settings, parts.model, parts.head, tokens, so_far, done)
        assert flops.total == pytest.approx(sum(steps[:done]), rel=1e-12), done


def test_flags_and_mode_are_left_as_they_were(shared_root: Path) -> None:
    settings, parts = built(shared_root, "lora", plan={"policy": {"kind": "bottom_up"}, "schedule": RAMP})
    _, events = trained(parts)
    parts.model.eval()
    before = {name: p.requires_grad for name, p in parts.model.named_parameters()}
    run_flops(settings, parts.model, parts.head, Tokens(tokens=80, rows=10, passes=5), events, STEPS)
    assert {name: p.requires_grad for name, p in parts.model.named_parameters()} == before
    assert not any(module.training for module in parts.model.modules())


def test_several_processes_save_nothing_by_freezing(shared_root: Path) -> None:
    settings, parts = built(shared_root, "aflora", plan={"schedule": RAMP})
    steps, events = trained(parts)
    tokens = Tokens(tokens=STEPS * ROWS * LENGTH, rows=STEPS * ROWS, passes=STEPS)
    flops = run_flops(settings, parts.model, parts.head, tokens, events, STEPS, distributed=True)
    assert flops.total == pytest.approx(STEPS * steps[0], rel=1e-12)


def test_states_of_a_run() -> None:
    factors = [
        {"name": f"{m}.{f}", "module": m, "factor": f, "shape": [1], "trainable": f != "C"} for m in "xy" for f in "ABC"
    ]
    events: list[Event] = [
        {"type": "start", "step": 0, "factors": factors},
        {"type": "prune", "step": 1, "ranks": {"x": 3}, "removed": False},
        {"type": "freeze", "step": 2, "names": ["x.A"]},
        {"type": "freeze", "step": 2, "names": ["x.B"], "folded": 1},
        {"type": "prune", "step": 4, "ranks": {"y": 2}, "removed": True},
    ]
    states = list(run_states(events, {"x": 4, "y": 4}, frozenset("xy")))
    both, y = frozenset(["x.A", "x.B", "y.A", "y.B"]), frozenset(["y.A", "y.B"])
    assert states == [
        State(first=0, training=both, ranks={"x": 4, "y": 4}, merged=frozenset()),
        State(first=3, training=y, ranks={"x": 4, "y": 4}, merged=frozenset("x")),
        State(first=5, training=y, ranks={"x": 4, "y": 2}, merged=frozenset("x")),
    ]
