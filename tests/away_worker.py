"""Trains every method on a device of its own rules (``away``) and on the processor, and writes down what happened."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
from away import NAME, TRAFFIC, Device, register
from peft import get_peft_model
from processes import nodes_everywhere
from tiny import batch, tiny_bert

import tapertune
from tapertune.adapt.finite import Diverged
from tapertune.host import ChainLayer
from tapertune.methods import METHODS

STEPS = 16
SETTINGS = {"sora": {"threshold": 0.05}}  # so that gates close in so few steps


def train(name: str, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """A run of a method, stopped in the middle and gone on with, and its model merged at the end."""
    model = adapted(name, device, dtype)
    inputs = {key: value.to(device) for key, value in batch().items()}
    controller, optimizer = follow(model)
    losses, waits, logits = [], [], []
    for step in range(STEPS):
        if step == STEPS // 2 + 1:
            state = {k: v.to("cpu") for k, v in model.state_dict().items()}, controller.state_dict()
            moments = optimizer.state_dict()
            model = adapted(name, device, dtype)
            controller, optimizer = follow(model)
            model.load_state_dict(state[0])
            optimizer.load_state_dict(moments)
            controller.load_state_dict(state[1])
        torch.manual_seed(step)
        TRAFFIC.clear()
        loss = model(**inputs).loss
        loss.backward()
        passes = +TRAFFIC
        TRAFFIC.clear()
        optimizer.step()
        optimizer.zero_grad()
        waits.append((passes, +TRAFFIC))
        losses.append(loss.item())
    tensors = [*model.state_dict().values(), *controller.state_dict()["tensors"].values()]
    controller.finish()
    ranks = [m.rank("default") for m in model.modules() if isinstance(m, ChainLayer)]
    model.eval()
    for serve in (lambda: model, model.merge_and_unload):
        logits.append(serve()(**inputs).logits.detach().to("cpu", torch.float32).flatten().tolist())
    return {
        "losses": losses,
        "waits": waits,
        "devices": sorted({t.device.type for t in tensors}),
        "frozen": controller.frozen,
        "ranks": ranks,
        "logits": logits,
    }


def adapted(name: str, device: str, dtype: torch.dtype) -> Any:
    torch.manual_seed(1)
    row = METHODS[name]
    config = tapertune.make_config(name, **{row.rank: 4}, **SETTINGS.get(name, {}), dropout=0.1, init_weights=False)
    return get_peft_model(tiny_bert().to(dtype), config).to(device)


def follow(model: Any, **values: Any) -> tuple[Any, torch.optim.Optimizer]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    return tapertune.attach(model, optimizer, total_steps=STEPS, **values), optimizer


def not_finite(name: str, **values: Any) -> dict[str, Any]:
    """A step with NaN gradients: whether weights stay finite, how many steps were left out, and what saving says."""
    model = adapted(name, NAME, torch.float32)
    controller, optimizer = follow(model, **values)
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.full_like(parameter, float("nan"))
    TRAFFIC.clear()
    optimizer.step()
    waited = TRAFFIC["fetched"]
    finite = all(bool(p.to("cpu").isfinite().all()) for p in trained)
    try:
        controller.state_dict()
        said = ""
    except Diverged as error:
        said = str(error)
    return {"finite": finite, "left_out": controller.finite.skipped, "said": said, "waited": waited}


def main(path: str, *names: str) -> None:
    torch.set_num_threads(1)
    nodes_everywhere()
    register()
    found: dict[str, Any] = {}
    for name in names or METHODS:
        found[name] = {"near": train(name, "cpu", torch.float32)}
        with Device():
            found[name]["away"] = train(name, NAME, torch.float32)
            found[name]["bfloat16"] = train(name, NAME, torch.bfloat16)
            found[name]["not finite"] = [not_finite(name), not_finite(name, max_skipped_steps=5)]
    with Device():
        model = tiny_bert().to(NAME)
        model.get_input_embeddings().requires_grad_(True)
        inputs = {key: value.to(NAME) for key, value in batch().items()}
        TRAFFIC.clear()
        model(**inputs).loss.backward()
        found["base"] = +TRAFFIC
    with open(path, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # autograd's thread for the device does not survive Python's own end
