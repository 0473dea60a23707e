"""Any plan on any chain that has the parts it names: settings, not code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny import batch, tiny_bert

import tapertune
from tapertune.host import ChainLayer, adapter_parameters

TOTAL = 16
RAMP = {"kind": "cubic", "warmup": 2, "cooldown": 5, "every": 1}
FREEZE = {"importance": {"kind": "|g|"}, "schedule": RAMP, "policy": {"kind": "lowest_fraction"}}
RELEASED_FREEZE = {
    "importance": {"kind": "|g|", "window": 2}, "schedule": {**RAMP, "kind": "quadratic"},
    "policy": {"kind": "mean_below_quantile", "factors": ["A", "B"]}, "final_update": False,
}  # fmt: skip
ORTHOGONAL = {"kind": "orthogonality", "weight": 0.01, "rows": ["A"], "columns": ["B"]}


def budget(gate: str) -> dict[str, Any]:
    return {
        "importance": {"kind": "|g*p|"},
        "schedule": RAMP,
        "policy": {"kind": "rank_budget", "gate": gate, "target": 2},
    }


def proximal(gate: str) -> dict[str, Any]:
    return {
        "schedule": {"kind": "constant", "value": 0.0, "every": 1},
        "policy": {"kind": "proximal", "gate": gate, "threshold": 4e-3},
    }


LATE_FREEZE = {**FREEZE, "schedule": {"kind": "cubic", "warmup": 10, "cooldown": 1, "every": 1}}
PAIRS = {
    "freezing on LoRA": ("lora", FREEZE),
    "freezing on AdaLoRA": ("adalora", FREEZE),
    "freezing on LoRA^2": ("lora2", FREEZE),
    "freezing on LoRAN": ("loran", RELEASED_FREEZE | {"policy": {"kind": "mean_below_quantile", "factors": ["A"]}}),
    "released freezing on SoRA": ("sora", RELEASED_FREEZE),
    "a budget on AFLoRA": ("aflora", budget("d")),
    "a budget on SoRA": ("sora", budget("g")),
    "a budget on ELoRA of its own projections": ("elora", budget("d")),
    "proximal steps on AFLoRA": ("aflora", proximal("d")),
    "proximal steps on AdaLoRA": ("adalora", proximal("E")),
    "a penalty on LoRA": ("lora", {**FREEZE, "penalties": [ORTHOGONAL]}),
    "freezing after pruning on AdaLoRA": ("adalora", [budget("E"), LATE_FREEZE]),
    "freezing after pruning on AFLoRA": ("aflora", [budget("d"), LATE_FREEZE]),
}
EXTRA = {"elora": {"shared": False}, "aflora": {"projection_scope": "all"}, "adalora": {"tinit": 1, "tfinal": 1}}


@pytest.mark.parametrize("pair", PAIRS)
def test_pair(pair: str, tmp_path: Path) -> None:
    method, plan = PAIRS[pair]
    row = tapertune.METHODS[method]
    base = tiny_bert()
    torch.manual_seed(1)
    config = tapertune.make_config(
        method, **{row.rank: 4}, plan=plan, modules_to_save=["classifier"], **EXTRA.get(method, {})
    )
    model = get_peft_model(base, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL)
    for t in range(TOTAL):
        optimizer.zero_grad()
        model(**batch(seed=t)).loss.backward()
        optimizer.step()
    controller.finish()

    kinds = [type(p.policy).__name__ for p in controller.plans]
    ranks = {m.module_path: m.rank("default") for m in model.modules() if isinstance(m, ChainLayer)}
    if {"LowestFraction", "MeanBelowQuantile"} & set(kinds):
        assert len(controller.frozen) == len(controller.freezable) >= 12
    if "RankBudget" in kinds:
        assert sum(ranks.values()) == 24
    if "Proximal" in kinds:
        assert 0 < sum(ranks.values()) < 48
    if controller.ranks:
        assert controller.ranks == ranks
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert controller.trainable == sum(p.numel() for p in parameters) < controller.trainable_start
    assert {id(p) for p in optimizer.state} == {id(p) for p in parameters}
    assert all(h.parameter.grad is None for h in adapter_parameters(model) if h.name in controller.frozen)

    expected = model.eval()(**batch()).logits
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_bert(), tmp_path, is_trainable=True).eval()
    assert torch.equal(again(**batch()).logits, expected)
    frozen = {h.name for h in adapter_parameters(again) if not h.parameter.requires_grad}
    assert frozen >= set(controller.frozen)
