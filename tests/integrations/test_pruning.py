"""Pruning that frees, on AFLoRA's chain (its vector d as the gate), and plans side by side."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny import batch, tiny_bert
from torch import nn

import tapertune
from tapertune.adapt import Controller, optimizer_bytes
from tapertune.events import EventLog, read_events
from tapertune.host import ChainLayer
from tapertune.integrations import read_state, restore, save_state

TOTAL = 24
PRUNE = {
    "importance": {"kind": "|g*p|"},
    "schedule": {"kind": "cubic", "warmup": 3, "cooldown": 10, "every": 2},
    "policy": {"kind": "rank_budget", "gate": "d", "target": 2},
}
FREEZE = {
    "schedule": {"kind": "cubic", "warmup": 8, "cooldown": 4, "every": 1},
    "policy": {"kind": "lowest_fraction", "factors": ["A", "B"]},
}
ON_EVENT = {**PRUNE, "compact": "on_event"}
PLANS = {
    "prune": PRUNE,
    "prune and freeze": [PRUNE, FREEZE],
    "masked": {**PRUNE, "compact": "never"},
    "on event": ON_EVENT,
    "on event and freeze": [ON_EVENT, FREEZE],
}


def start(plan: Any) -> tuple[PeftModel, torch.optim.Optimizer]:
    base = tiny_bert()
    torch.manual_seed(1)
    config = tapertune.make_config("aflora", r=4, projection_scope="all", plan=plan, modules_to_save=["classifier"])
    model = get_peft_model(base, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    return model, optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for t in steps:
        optimizer.zero_grad()
        model(**batch(seed=t)).loss.backward()
        optimizer.step()


def layers(model: nn.Module) -> list[ChainLayer]:
    return [m for m in model.modules() if isinstance(m, ChainLayer)]


def run(plan: Any, log: Any = None) -> tuple[PeftModel, torch.optim.Optimizer, Controller]:
    model, optimizer = start(plan)
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL, events=log)
    train(model, optimizer, range(TOTAL))
    controller.finish()
    return model, optimizer, controller


def test_pruned_ranks_are_gone(tmp_path: Path) -> None:
    model, optimizer, controller = run(PRUNE, EventLog(tmp_path / "e.jsonl"))
    ranks = [layer.rank("default") for layer in layers(model)]
    assert sum(ranks) == 2 * 12 and len(set(ranks)) > 1
    assert controller.ranks == {layer.module_path: layer.rank("default") for layer in layers(model)}
    for layer in layers(model):
        tensors, rank = layer.tensors("default"), layer.rank("default")
        assert tensors["A"].shape == (rank, layer.in_features) and tensors["B"].shape == (layer.out_features, rank)
    # nothing of the pruned ranks is left in the optimizer, nor in the counts
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == controller.trainable < controller.trainable_start
    assert optimizer_bytes(optimizer) == sum(2 * 4 * p.numel() + 4 for p in trainable)
    events = read_events(tmp_path / "e.jsonl")
    prunes = [e for e in events if e["type"] == "prune"]
    budgets = [e["budget"] for e in prunes]
    assert budgets == sorted(budgets, reverse=True) and budgets[-1] == 24
    assert [e["removed"] for e in prunes] == [False] * (len(prunes) - 1) + [True]
    assert prunes[-1]["ranks"] == controller.ranks and prunes[-1]["trainable"] == controller.trainable


def test_removing_changes_nothing_but_the_cost() -> None:
    """Masked for good or removed: the same outputs, without decay acting on what is masked."""
    outputs = []
    for plan in (PRUNE, PLANS["masked"]):
        model, optimizer = start(plan)
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        tapertune.attach(model, optimizer, total_steps=TOTAL)
        train(model, optimizer, range(TOTAL))
        outputs.append(model(**batch()).logits)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_pruned_adapters_save_and_load(tmp_path: Path, low_cpu_mem_usage: bool) -> None:
    model, _, _ = run(PRUNE)
    expected = model.eval()(**batch()).logits
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_bert(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage).eval()
    assert torch.equal(again(**batch()).logits, expected)
    assert [a.rank("default") for a in layers(again)] == [b.rank("default") for b in layers(model)]
    merged = again.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(merged(**batch()).logits, expected, atol=1e-5, rtol=1e-4)


def test_a_full_and_a_pruned_checkpoint_load_into_one_model() -> None:
    fresh, _ = start(PRUNE)
    full = copy.deepcopy(fresh.state_dict())
    pruned, _, _ = run(PRUNE)
    other, _ = start(PRUNE)
    other.load_state_dict(pruned.state_dict())
    assert torch.equal(other(**batch()).logits, pruned(**batch()).logits)
    other.load_state_dict(full)
    assert torch.equal(other(**batch()).logits, fresh(**batch()).logits)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("stop", [6, 13, 16, 22])
def test_stopped_and_resumed_is_the_same_run(tmp_path: Path, plan: str, stop: int) -> None:
    model, _, whole = run(PLANS[plan], EventLog(tmp_path / "whole.jsonl"))
    first, first_optimizer = start(PLANS[plan])
    cut = tapertune.attach(first, first_optimizer, total_steps=TOTAL, events=EventLog(tmp_path / "cut.jsonl"))
    train(first, first_optimizer, range(stop))
    save_state(cut, tmp_path)
    saved = copy.deepcopy((first.state_dict(), first_optimizer.state_dict()))

    second, optimizer = start(PLANS[plan])
    second.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    log = EventLog(tmp_path / "cut.jsonl", keep=read_state(tmp_path)["json"]["events"])
    resumed = tapertune.integrations.loop.build_controller(second, total_steps=TOTAL, events=log)
    restore(resumed, tmp_path)
    resumed.attach(optimizer)
    train(second, optimizer, range(stop, TOTAL))
    resumed.finish()
    for (name, one), (_, two) in zip(model.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(one, two), name
    assert resumed.frozen == whole.frozen and resumed.ranks == whole.ranks
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_freezing_goes_on_after_pruning() -> None:
    _, optimizer, controller = run([PRUNE, FREEZE])
    assert len(controller.frozen) == 24
    assert sum(controller.ranks.values()) == 24
    frozen = [controller.handles[name].parameter for name in controller.frozen]
    assert not any(p in optimizer.state or p.requires_grad for p in frozen)


def test_a_proximal_plan_zeroes_small_gates_and_removes_them_at_the_end() -> None:
    plan = {
        "policy": {"kind": "proximal", "gate": "d", "threshold": 8e-3, "times_lr": False},
        "schedule": {"kind": "constant", "value": 0.0, "every": 1},
    }
    model, optimizer = start(plan)
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL)
    train(model, optimizer, range(TOTAL))
    zeros = sum(int((layer.factor("default", "d") == 0).sum()) for layer in layers(model))
    assert 0 < zeros < 48
    before = model(**batch()).logits
    controller.finish()
    assert sum(layer.rank("default") for layer in layers(model)) == 48 - zeros
    torch.testing.assert_close(model(**batch()).logits, before)


def test_a_graph_that_is_still_alive_does_no_harm() -> None:
    """A loop that holds its last loss keeps autograd's accumulators, made for the shapes before the cut."""
    model, optimizer = start(PRUNE)
    tapertune.attach(model, optimizer, total_steps=TOTAL)
    for t in range(TOTAL):
        loss = model(**batch(seed=t)).loss
        optimizer.zero_grad()
        loss.backward(retain_graph=True)
        optimizer.step()
    assert sum(layer.rank("default") for layer in layers(model)) == 24


def test_a_run_that_ends_before_any_decision_removes_nothing() -> None:
    """AdaLoRA's singular values start at zero, which is not the same as pruned."""
    model = get_peft_model(tiny_bert(), tapertune.make_config("adalora", init_r=4))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    tapertune.attach(model, optimizer, total_steps=TOTAL).finish()
    assert {layer.rank("default") for layer in layers(model)} == {4}


def test_a_module_can_lose_all_its_ranks(tmp_path: Path) -> None:
    model, optimizer = start(PRUNE)
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL)
    with torch.no_grad():
        layers(model)[0].factor("default", "d").zero_()
        layers(model)[3].factor("default", "d")[1:] = 0
    controller.runners[0].compact(optimizer, [])
    assert [layer.rank("default") for layer in layers(model)][:4] == [0, 4, 4, 1]
    model(**batch()).loss.backward()
    optimizer.step()
    expected = model.eval()(**batch()).logits
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_bert(), tmp_path).eval()
    assert torch.equal(again(**batch()).logits, expected)
    again.merge_and_unload(safe_merge=True)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({**PRUNE, "policy": {"kind": "rank_budget", "gate": "E", "target": 2}}, "diagonal factors are b, d"),
        ({**PRUNE, "policy": {"kind": "rank_budget", "gate": "d", "target": 4}}, "target rank is 4; it must be less"),
        ({**PRUNE, "policy": {"kind": "rank_budget", "gate": "d", "target": 2, "scored": ["X"]}}, "scored names X"),
    ],
)
def test_plans_that_do_not_fit(plan: dict, message: str) -> None:
    model, optimizer = start(plan)
    with pytest.raises(tapertune.TapertuneError, match=message):
        tapertune.attach(model, optimizer, total_steps=TOTAL)
