"""The controller in a plain training loop or under Accelerate."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..adapt import BottomUp, Controller, make_plans, merge
from ..adapt.finite import AUTO, Limit
from ..adapt.journal import EventSink
from ..adapt.plan import Spec
from ..adapt.sharding import is_sharded
from ..errors import bad_value
from ..host import adapter_parameters, find_config
from ..layer_cache.cache import LayerCache, check_model
from ..layer_cache.settings import CacheSettings, cache_settings
from ..methods.rates import MOST
from .wrappers import find_wrappers

_log = logging.getLogger("tapertune")
# whose wrappers of an optimizer hold it as ``optimizer``
_LAUNCHERS = ("accelerate", "deepspeed", "lightning", "lightning_fabric", "pytorch_lightning")


def attach(
    model: nn.Module,
    optimizer: Any,
    *,
    total_steps: int,
    adapter_name: str = "default",
    plan: Spec | None = None,
    events: EventSink | None = None,
    max_skipped_steps: Limit = AUTO,
    cache: CacheSettings | Mapping[str, Any] | bool | None = None,
) -> Controller:
    """Lets a plan run over a model's adapter from the optimizer's next step on.

    Args:
        model: with a tapertune adapter, anywhere inside it: a PEFT model, something around one with a head of its
            own, either of them wrapped by Accelerate or DistributedDataParallel. Whatever trains in it is counted.
        optimizer: the one that trains it; Accelerate's wrapper or the bare one, an optimizer around others, or one of
            several that step on the adapter.
        total_steps: optimizer steps of the whole run.
        adapter_name: the adapter.
        plan: changes to the config's plan, such as ``{"schedule": {"warmup": 100}}``.
        events: where events go, such as ``tapertune.events.EventLog("events.jsonl")``.
        max_skipped_steps: a step whose gradients hold NaN or infinity is left out; more than so many in a row raise
            ``Diverged``, an ArithmeticError. Step torch's learning rate schedulers only where
            ``controller.finite.last`` is false; Accelerate's do so by themselves.
        cache: keeps what enters the lowest layer that trains, so that later epochs begin there: true, or settings such
            as ``{"memory": "2GiB", "dropout": "off"}``.

    Returns:
        The controller. ``tapertune.integrations.save_state`` and ``restore`` stop and resume it; ``finish()`` ends the
        run. An adapter has one controller at a time: an earlier one of the same adapter lets go for good.

    Raises:
        TapertuneError: no such adapter, a plan that does not fit it or the run, an optimizer that does not step on the
            adapter, a learning rate that is not finite, 100 and more, or 0 with a schedule, or a cache that cannot be
            (see ``cache_layers``).
    """
    settings = cache_settings(cache)
    if settings is not None:
        check_model(model, settings)
    controller = build_controller(
        model,
        total_steps=total_steps,
        adapter_name=adapter_name,
        plan=plan,
        events=events,
        max_skipped_steps=max_skipped_steps,
    )
    find_wrappers(controller, model)
    attach_to(controller, optimizer)
    if settings is not None:
        controller.cache = LayerCache(model, settings)
    return controller


def cache_layers(model: nn.Module, **settings: Any) -> LayerCache:
    """Keeps what enters the lowest layer that trains, row by row, and has later passes begin there; for any model, with
    or without an adapter. ``attach(cache=...)`` does so for a run of a plan.

    Args:
        model: that trains.
        **settings: of ``CacheSettings``: ``memory``, ``disk``, ``dtype``, ``folder``, ``dropout``, ``layers``.

    Returns:
        The cache: ``summary()`` says what it was good for, ``close()`` ends it.

    Raises:
        TapertuneError: a wrong setting, layers that are not found, dropout or another randomness in layers that are to
            be kept, or a folder that cannot be used.
    """
    found = cache_settings(settings)
    assert found is not None, "a mapping is settings"
    return LayerCache(model, found)


def attach_to(controller: Controller, optimizer: Any) -> Controller:
    """Lets a controller follow an optimizer, bare or in the wrappers of a launcher."""
    bare = bare_optimizer(optimizer)
    _check_rates(bare)
    controller.attach(bare)
    controller.wrappers = []
    while optimizer is not bare:
        if hasattr(optimizer, "_is_overflow"):  # Accelerate's
            controller.wrappers.append(optimizer)
        optimizer = optimizer.optimizer
    return controller


def build_controller(
    model: nn.Module,
    *,
    total_steps: int,
    adapter_name: str = "default",
    plan: Spec | None = None,
    events: EventSink | None = None,
    max_skipped_steps: Limit = AUTO,
) -> Controller:
    """The controller of a model's adapter, not yet attached to an optimizer."""
    config = find_config(model, adapter_name)
    handles = adapter_parameters(model, adapter_name)
    settings = merge(config.row.plan(config.settings()), config.plan)
    plans = make_plans(merge(settings, plan))
    inside = {id(handle.parameter) for handle in handles}
    controller = Controller(
        handles,
        plans,
        total_steps,
        events=events,
        max_skipped_steps=max_skipped_steps,
        method=config.method,
        adapter=adapter_name,
        other_trainable=sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in inside),
        factor_rates=config.rates(),
        distributed=_world_size() > 1 or any(is_sharded(handle.parameter) for handle in handles),
    )
    lowest = {r.scope.freeze_groups[0][0] for r in controller.runners if isinstance(r.plan.policy, BottomUp)}
    for handle in handles:
        if handle.name in lowest:
            handle.expect_input_without_gradient()
    return controller


def bare_optimizer(optimizer: Any) -> Any:
    """The optimizer inside the wrappers of launchers, which step it only now and then and do not pass hooks on. An
    optimizer around another, such as Lookahead, is no such wrapper."""
    while type(optimizer).__module__.partition(".")[0] in _LAUNCHERS and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _check_rates(optimizer: Any) -> None:
    """Raises TapertuneError for a learning rate that can be none: not finite, or ``MOST`` and more; or 0 wherever it is
    multiplied by a schedule, whose own start may be 0."""
    groups = [group for group in getattr(optimizer, "param_groups", ()) if group.get("lr") is not None]
    rates = [float(group.get("initial_lr", group["lr"])) for group in groups]
    for rate in rates:
        if not rate < MOST:
            raise bad_value("lr of the optimizer", rate, f"a number below {MOST}")
    if rates and not any(rates):
        if all("initial_lr" in group for group in groups):
            raise bad_value("lr of the optimizer", 0.0, "above 0: at 0, nothing trains")
        _log.warning("lr of the optimizer is 0.0: until it is raised, nothing trains")


def _world_size() -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1
