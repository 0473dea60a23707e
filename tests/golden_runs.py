"""Replays a recorded run of a method with a rank budget: loss, budget, threshold and singular values at every step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn

import tapertune


class Net(nn.Module):
    """``layers.0``, tanh, ``layers.1``, ...: the recorded models."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(torch.tanh(x) if i else x)
        return x


def replay_budget(run: dict[str, Any], method: str, orth: dict[str, Any], **settings: Any) -> None:
    """Args:
    run: the recording, as ``golden`` loads it.
    method: name of the method.
    orth: the factors that the recorded penalty is taken over.
    settings: further settings of the method.
    """
    meta = run["meta"]
    count = 1 + max(int(key.split(".")[1]) for key in run if key.startswith("init/"))
    layers: list[nn.Module] = []
    for i in range(count):
        weight, bias = (torch.tensor(run[f"init/layers.{i}.{name}"]) for name in ("weight", "bias"))
        linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        linear.load_state_dict({"weight": weight, "bias": bias})
        layers.append(linear)
    config = tapertune.make_config(
        method, init_r=meta["r"], target_r=meta["target_rank"], lora_alpha=meta["alpha"], beta1=meta["beta1"],
        beta2=meta["beta2"], tinit=meta["init_warmup"], tfinal=meta["final_warmup"], deltaT=meta["mask_interval"],
        orth_reg_weight=meta["orth_weight"], orth_form="norm_mean", target_modules=r"layers\.\d+",
        plan={"compact": "never"}, **settings,
    )  # fmt: skip
    model = get_peft_model(Net(layers), config, autocast_adapter_dtype=False)
    adapted = [model.base_model.model.layers[i] for i in range(count)]
    names = adapted[0].chains["default"].names
    for i, layer in enumerate(adapted):
        for name in names:
            value = torch.tensor(run[f"init/layers.{i}.lora_{name}"])
            layer.factor("default", name).data.copy_(value.view_as(layer.factor("default", name)))

    events: list[dict[str, Any]] = []
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=meta["lr"])
    controller = tapertune.attach(
        model, optimizer, total_steps=meta["total_step"],
        events=lambda type, step, **fields: events.append({"type": type, "step": step, **fields}),
    )  # fmt: skip
    runner = controller.runners[0]
    penalty = tapertune.adapt.Orthogonality(weight=meta["orth_weight"], form="norm_mean", **orth)
    modules = [layer.tensors("default") for layer in adapted]
    decisions = {}
    decide = type(runner.plan.policy).decide

    def recorded(policy: Any, *args: Any) -> Any:
        decisions[controller.step] = decide(policy, *args)
        return decisions[controller.step]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(runner.plan.policy), "decide", recorded)
        for t in range(meta["total_step"]):
            task_loss = nn.functional.mse_loss(model(torch.tensor(run["X"][t])), torch.tensor(run["Y"][t]))
            if "orth_penalty" in run:
                assert penalty.value(modules).item() == pytest.approx(run["orth_penalty"][t], rel=1e-8)
            assert task_loss.item() == pytest.approx(run["loss"][t], rel=1e-8), t
            optimizer.zero_grad()
            task_loss.backward()
            optimizer.step()
            if runner.final is not None:
                decisions.setdefault(t, runner.final)
            threshold = run["threshold"][t]
            assert (t in decisions) == (threshold == threshold), t
            if t in decisions:
                assert decisions[t].threshold == pytest.approx(threshold, rel=1e-8)
                assert decisions[t].budget == run["budget"][t]
            values = torch.cat([layer.factor("default", "E") for layer in adapted]).detach()
            torch.testing.assert_close(values, torch.tensor(run["singular_values"][t]), atol=1e-10, rtol=1e-8)
    for i, layer in enumerate(adapted):
        for name in names:
            final = torch.tensor(run[f"final/layers.{i}.lora_{name}"])
            mine = layer.factor("default", name).detach()
            torch.testing.assert_close(mine, final.view_as(mine), atol=1e-10, rtol=1e-8)
    prunes = [e for e in events if e["type"] == "prune"]
    assert prunes and sum(prunes[-1]["ranks"].values()) == count * meta["target_rank"]
