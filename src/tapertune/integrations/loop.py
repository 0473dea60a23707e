"""The controller in a plain training loop or under Accelerate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..adapt import BottomUp, Controller, make_plans, merge
from ..adapt.controller import EventSink
from ..adapt.plan import Spec
from ..adapt.sharding import is_sharded
from ..host import adapter_handles, find_config


def attach(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    total_steps: int,
    adapter_name: str = "default",
    plan: Spec | None = None,
    events: EventSink | None = None,
) -> Controller:
    """Lets a plan run over a model's adapter from the optimizer's next step on.

    Args:
        model: with a tapertune adapter, anywhere inside it: a PEFT model, something around one with a head of its
            own, either of them wrapped by Accelerate or DistributedDataParallel. Whatever trains in it is counted.
        optimizer: the one that trains it; Accelerate's wrapper or the bare one.
        total_steps: optimizer steps of the whole run.
        adapter_name: the adapter.
        plan: changes to the config's plan, such as ``{"schedule": {"warmup": 100}}``.
        events: where events go, such as ``tapertune.events.EventLog("events.jsonl")``.

    Returns:
        The controller. ``state_dict`` and ``load_state_dict`` stop and resume it; ``finish()`` ends the run.

    Raises:
        TapertuneError: no such adapter, or a plan that does not fit it or the run.
    """
    controller = build_controller(model, total_steps=total_steps, adapter_name=adapter_name, plan=plan, events=events)
    return controller.attach(bare_optimizer(optimizer))


def build_controller(
    model: nn.Module,
    *,
    total_steps: int,
    adapter_name: str = "default",
    plan: Spec | None = None,
    events: EventSink | None = None,
) -> Controller:
    """The controller of a model's adapter, not yet attached to an optimizer."""
    config = find_config(model, adapter_name)
    handles = adapter_handles(model, adapter_name)
    settings = merge(config.row.plan(config.settings()), config.plan)
    plans = make_plans(merge(settings, plan))
    inside = {id(handle.parameter) for handle in handles}
    controller = Controller(
        handles,
        plans,
        total_steps,
        events=events,
        method=config.method,
        adapter=adapter_name,
        other_trainable=sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in inside),
        distributed=_world_size() > 1 or any(is_sharded(handle.parameter) for handle in handles),
    )
    lowest = {r.scene.bundles[0][0] for r in controller.runners if isinstance(r.plan.policy, BottomUp)}
    for handle in handles:
        if handle.name in lowest:
            handle.expect_input_without_gradient()
    return controller


def bare_optimizer(optimizer: Any) -> Optimizer:
    """The torch optimizer inside Accelerate's wrapper (which does not pass hooks on)."""
    while getattr(optimizer, "optimizer", None) is not None:
        optimizer = optimizer.optimizer
    return optimizer


def _world_size() -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1
