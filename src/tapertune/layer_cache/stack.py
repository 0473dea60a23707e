"""A model's list of layers, and the module around it that is given what a row is made of."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import TapertuneError, nearest
from ..host.layer_lists import LAYER_LISTS

INPUTS = ("input_ids", "pixel_values")


@dataclass(frozen=True)
class Stack:
    """
    Attributes:
        path: of the list, in the model.
        backbone: the innermost module around the list whose forward pass is given token ids or pixels.
        layers: one after another.
    """

    path: str
    backbone: nn.Module
    layers: nn.ModuleList


def find_stack(model: nn.Module, path: str | None = None) -> Stack:
    """The layers of a model, wherever in it they are.

    Args:
        model: bare, with an adapter, or in a launcher's wrapper.
        path: of the list, or how it ends; None: as the architecture has it.

    Raises:
        TapertuneError: there is no such list, it holds fewer than two layers, or nothing around it is given ids.
    """
    kind = _model_type(model)
    if path is None and kind not in LAYER_LISTS:
        known = ", ".join(sorted(LAYER_LISTS))
        raise TapertuneError(
            f"cache: where a model of type {kind!r} has its layers is not known (known: {known}); "
            f"name the list in cache.layers{_proposal(model)}"
        )
    ending = LAYER_LISTS[kind] if path is None else path
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    name = next((name for name in lists if name == ending or name.endswith(f".{ending}")), None)
    if name is None:
        field = f"a model of type {kind!r}" if path is None else f"cache.layers {path!r}"
        guess = nearest(ending, lists)
        hint = f"; did you mean {guess!r}?" if guess else _proposal(model)
        raise TapertuneError(f"cache: looked for a list of layers {ending!r} for {field}, and found none{hint}")
    if len(lists[name]) < 2:
        raise TapertuneError(f"cache: {name} holds {len(lists[name])} layers; at least two are needed")
    return Stack(name, _backbone(model, name), lists[name])


def _backbone(model: nn.Module, path: str) -> nn.Module:
    parts = path.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        module = model.get_submodule(".".join(parts[:depth]))
        if not isinstance(module, nn.ModuleList) and any(name in parameters_of(type(module)) for name in INPUTS):
            return module
    raise TapertuneError(f"cache: looked for a module around {path} that is given {' or '.join(INPUTS)}, found none")


@functools.cache
def parameters_of(kind: type[nn.Module]) -> tuple[str, ...]:
    """The names of the arguments of a class's forward pass, without ``self``; rows are named by them."""
    parameters = list(inspect.signature(kind.forward).parameters.values())[1:]
    return tuple(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))


def _model_type(model: Any) -> str:
    for module in model.modules():
        config = getattr(module, "config", None)
        kind = config.get("model_type") if isinstance(config, dict) else getattr(config, "model_type", None)
        if kind:
            return str(kind)
    return type(model).__name__


def _proposal(model: nn.Module) -> str:
    """The model's lists that may be it."""
    lists = [n for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1]
    return f"; its lists are {', '.join(lists[:5])}" if lists else "; it has no list of modules"
