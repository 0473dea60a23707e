"""Experts that no token reaches: they keep averages, ranks and factors, and are counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from experts import EXPERTS, mixtral
from peft import get_peft_model
from torch import nn

import tapertune
from tapertune.adapt import Controller
from tapertune.host import adapter_parameters
from tapertune.host.parameter_layer import ParameterLayer
from tapertune.methods import METHODS

PLANS: dict[str, Any] = {
    "aflora": {"schedule": {"warmup": 2, "cooldown": 0.2}},
    "adalora": {"schedule": {"warmup": 2, "cooldown": 0.2, "every": 1}},
}


def trained(name: str, steps: int, stop: int | None = None) -> tuple[Any, Controller, list[Any]]:
    """An adapter whose experts 1 and 3 have tokens in all steps, 2 in one, 0 in none."""
    torch.manual_seed(1)
    config = tapertune.make_config(name, target_modules=[], target_parameters=EXPERTS, plan=PLANS.get(name))
    model: Any = get_peft_model(mixtral(), config).train()
    layer = next(module for module in model.modules() if isinstance(module, ParameterLayer))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.1)
    events: list[Any] = []
    controller = tapertune.attach(
        model, optimizer, total_steps=steps, events=lambda type, step, **fields: events.append((type, step, fields))
    )
    data = torch.Generator().manual_seed(0)
    for step in range(steps if stop is None else stop):
        which = torch.tensor([[1], [3], [2 if step == 3 else 1], [3]])
        x = torch.randn(4, 16, generator=data)
        layer(x, which, torch.ones(4, 1)).sub(torch.randn(4, 16, generator=data)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, controller, events


def of_expert(model: nn.Module, index: int) -> dict[str, torch.Tensor]:
    return {h.name: h.parameter for h in adapter_parameters(model) if h.module.endswith(f".{index}")}


@pytest.mark.parametrize("name", METHODS)
def test_an_expert_without_tokens_stays_as_it_was(name: str) -> None:
    before = of_expert(trained(name, 12, stop=0)[0], 0)
    model, controller, events = trained(name, 12)
    controller.finish()
    after = of_expert(model, 0)
    assert after and all(torch.equal(after[key], before[key]) for key in before), "neither moved nor pruned"
    assert controller.summary()["experts_unreached"] == 2
    assert not any(key in controller.frozen for key in after)
    if name in PLANS:
        assert any(type in ("freeze", "prune") for type, _, _ in events), "the plan has acted on others"


def test_averages_of_a_step_without_tokens_are_those_of_the_step_before() -> None:
    _, controller, _ = trained("adalora", 12, stop=6)
    averages = controller.runners[0].averages
    assert averages is not None
    _, earlier, _ = trained("adalora", 12, stop=4)
    then = earlier.runners[0].averages
    assert then is not None
    spans = dict(zip(averages.names, averages.mean.split(averages.sizes), strict=True))
    past = dict(zip(then.names, then.mean.split(then.sizes), strict=True))
    once = [name for name in averages.names if ".2." in name]
    assert once and all(torch.equal(spans[name], past[name]) and spans[name].any() for name in once)
    # corrected to as many steps as the others have had, so that one late gradient is not read as a small one
    scores = averages.scores()
    assert not any(name.split(".")[-2] == "0" for name in scores.names)
    assert {name.split(".")[-2] for name in scores.unreached} == {"0"}
    b1, b2 = averages.importance.beta1, averages.importance.beta2
    ratio = (1 - b1**6) * (1 - b2**6) / ((1 - b1) * (1 - b2))
    dev = dict(zip(averages.names, averages.dev.split(averages.sizes), strict=True))
    for name in once:
        expected = spans[name] * dev[name] * ratio
        torch.testing.assert_close(scores.shaped()[name].flatten(), expected)


def test_reached_steps_are_saved_with_the_state() -> None:
    _, controller, _ = trained("adalora", 12, stop=6)
    state = controller.state_dict()
    _, again, _ = trained("adalora", 12, stop=0)
    again.load_state_dict(state)
    mine, theirs = controller.runners[0].averages, again.runners[0].averages
    assert mine is not None and theirs is not None
    assert mine.unreached() == theirs.unreached() != []
    assert torch.equal(mine.scores().elements, theirs.scores().elements)
