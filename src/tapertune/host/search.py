"""Where a model's adapter is: the model itself, a part of it, or several parts of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import TapertuneError
from .config import ChainConfig
from .layer import ChainLayer


@dataclass(frozen=True)
class AdaptedPart:
    """What PEFT has put an adapter into.

    Args:
        path: from the model that was searched; empty where it is that model.
        module: the PEFT model, or a transformers model that adapters were added to.
        config: the adapter's.
    """

    path: str
    module: nn.Module
    config: ChainConfig


def adapted_parts(model: nn.Module, adapter_name: str) -> list[AdaptedPart]:
    """The parts of a model that have a tapertune adapter of this name: one, or several alike (two encoders, say).

    Raises:
        TapertuneError: the model has no such adapter, it is not one of ours, or several parts have adapters of this
            name that differ in method, settings or plan.
    """
    configured = list(_configured(model, "", set()))
    named = [(path, module, configs[adapter_name]) for path, module, configs in configured if adapter_name in configs]
    if not named:
        names = ", ".join(sorted({name for _, _, configs in configured for name in configs})) or "none"
        raise TapertuneError(f"the model has no adapter {adapter_name!r}; its adapters: {names}")
    ours = [AdaptedPart(*each) for each in named if isinstance(each[2], ChainConfig)]
    if not ours:
        raise TapertuneError(
            f"adapter {adapter_name!r} is PEFT's {named[0][2].peft_type}, not one of tapertune's methods"
        )
    # a model whose adapter was merged and unloaded keeps the config, but no layers
    parts = [part for part in ours if has_layers(part.module, adapter_name)] or ours[:1]
    first = parts[0].config
    for part in parts[1:]:
        if _what_runs(part.config) != _what_runs(first):
            raise TapertuneError(
                f"the model has adapters {adapter_name!r} in {parts[0].path!r} and {part.path!r} that differ in "
                "method, settings or plan: give them different names, and name one"
            )
    return parts


def find_config(model: nn.Module, adapter_name: str) -> ChainConfig:
    """The config of a tapertune adapter, wherever in the model it is; the first one's where several parts have one.

    Raises:
        TapertuneError: as ``adapted_parts``.
    """
    return adapted_parts(model, adapter_name)[0].config


def planned_adapters(model: nn.Module) -> list[str]:
    """The names of the adapters of ours in a model that have a plan and train."""
    return sorted(
        {
            name
            for _, module, configs in _configured(model, "", set())
            for name, config in configs.items()
            if isinstance(config, ChainConfig) and config.resolved_plans() and _trains(module, name)
        }
    )


def _trains(model: nn.Module, adapter_name: str) -> bool:
    layers = [module for module in model.modules() if isinstance(module, ChainLayer) and adapter_name in module.chains]
    return any(
        layer.factor(adapter_name, name).requires_grad for layer in layers for name in layer.chains[adapter_name].names
    )


def has_layers(model: nn.Module, adapter_name: str | None = None) -> bool:
    """Whether there are layers of ours in a model; with a name, layers that have this adapter."""
    layers = (module for module in model.modules() if isinstance(module, ChainLayer))
    return any(layer.chains if adapter_name is None else adapter_name in layer.chains for layer in layers)


def _configured(module: nn.Module, path: str, visited: set[int]) -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
    """The modules with PEFT configs, outermost first; not what is inside of one with an adapter of ours, which
    shares the configs."""
    if id(module) in visited:
        return
    visited.add(id(module))
    configs = getattr(module, "peft_config", None)
    if isinstance(configs, dict) and configs:
        yield path, module, configs
        if any(isinstance(config, ChainConfig) for config in configs.values()) and has_layers(module):
            visited.update(id(inner) for inner in module.modules())
            return
    for name, child in module.named_children():
        yield from _configured(child, f"{path}.{name}" if path else name, visited)


def _what_runs(config: ChainConfig) -> tuple[Any, ...]:
    return config.method, config.settings(), config.resolved_plans(), config.rates()
