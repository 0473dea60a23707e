"""Learning rates for a model: the one of the whole run, and groups of parameters for factors that have their own."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..adapt.factor_rates import RATIO
from ..errors import TapertuneError, bad_value
from ..methods.rates import SuggestedRate, check_rate, suggested
from ..methods.settings import positive
from .config import ChainConfig, check_factor_rates
from .parameters import adapter_parameters
from .search import find_config

_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim", "hidden_dim", "embed_dim")


def suggest_learning_rate(model: nn.Module, config: ChainConfig, total_steps: int, batch_size: int) -> SuggestedRate:
    """The learning rate that a run file's ``auto`` stands for, for AdamW with a linear schedule.

    Args:
        model: the base model, with an adapter or without.
        config: of one of tapertune's methods.
        total_steps: optimizer steps of the whole run.
        batch_size: rows of an optimizer step: of all processes and accumulated passes together.

    Returns:
        A float with ``low`` and ``high``, the rates between which the method learned, ``reasons`` and ``source``;
        ``explain()`` says it in one line.

    Raises:
        TapertuneError: a config of another kind, or a number below 1.

    >>> import tapertune
    >>> from torch import nn
    >>> rate = suggest_learning_rate(nn.Linear(384, 384), tapertune.make_config("lora"), 100, 16)
    >>> rate.low < rate < rate.high
    True
    """
    if not isinstance(config, ChainConfig):
        raise bad_value("config", type(config).__name__, "the config of a method of tapertune's")
    for name, value in (("total_steps", total_steps), ("batch_size", batch_size)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise bad_value(name, value, "a positive whole number")
    row = config.row
    return suggested(
        row.rates,
        config.settings(),
        row.settings(),
        name=row.name,
        width=hidden_width(model),
        steps=total_steps,
        batch=batch_size,
    )


def hidden_width(model: nn.Module) -> int:
    """The width of a model's hidden states: what its config says, else the inputs of most of its linear layers.

    Raises:
        TapertuneError: there is neither.
    """
    config: Any = getattr(model, "config", None)
    for part in (config, getattr(config, "text_config", None), getattr(config, "encoder", None)):
        for name in _WIDTHS:
            value = part.get(name) if isinstance(part, Mapping) else getattr(part, name, None)
            if isinstance(value, int) and value > 0:
                return value
    widths = [m.in_features for m in model.modules() if isinstance(m, nn.Linear) and m.in_features > 0]
    if not widths:
        raise TapertuneError(f"{type(model).__name__} has neither a config with a hidden_size nor linear layers")
    return statistics.mode(widths)


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    *,
    weight_decay: float = 0.0,
    adapter_name: str = "default",
    factor_rates: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """The parameters that train, in groups by learning rate, for any optimizer of torch's form.

    ``torch.optim.AdamW(tapertune.parameter_groups(model, 1e-3))``. The callback and ``attach`` leave such groups alone;
    of other optimizers they give the factors their rates themselves.

    Args:
        model: with a tapertune adapter, anywhere inside it.
        learning_rate: of the run; a factor's is a multiple of it.
        weight_decay: of matrices and of the adapter's vectors; other vectors, such as biases, have none.
        adapter_name: the adapter.
        factor_rates: multiples by the factor's name, over those of the config.

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay``, ``lr_ratio`` and ``group_name``, the run's own rate first.

    Raises:
        TapertuneError: no such adapter, no factor of that name, or a rate that is not positive.
    """
    positive("learning_rate", learning_rate)
    check_rate("learning_rate", learning_rate)
    ratios = factor_ratios(model, adapter_name, factor_rates)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        ratio = ratios.get(id(parameter), 1.0)
        decay = weight_decay if id(parameter) in ratios or parameter.dim() > 1 else 0.0
        rates = {"lr": learning_rate * ratio, "weight_decay": decay, RATIO: ratio}
        name = f"rate x {ratio:g}" + ("" if decay == weight_decay else ", no decay")
        group = groups.setdefault((ratio, decay), {"params": [], **rates, "group_name": name})
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups, key=lambda key: (key[0] != 1, key))]


def factor_ratios(
    model: nn.Module, adapter_name: str = "default", factor_rates: Mapping[str, float] | None = None
) -> dict[int, float]:
    """The multiple of the learning rate of each factor of an adapter, by identity of the parameter.

    Raises:
        TapertuneError: no such adapter, no factor of that name, or a multiple that is not positive.
    """
    ratios = find_config(model, adapter_name).rates()
    check_factor_rates(factor_rates, tuple(ratios))
    ratios.update(factor_rates or {})
    return {id(handle.parameter): ratios[handle.factor] for handle in adapter_parameters(model, adapter_name)}
