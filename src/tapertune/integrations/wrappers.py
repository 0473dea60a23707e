"""Which DistributedDataParallel an adapter is in: known from the model, or from its next forward pass."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..adapt import Controller
from ..adapt.reducers import wrappers_in

_WAITING: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Controller]] = weakref.WeakKeyDictionary()
_HOOK = "_tapertune_looks_for_wrapper"


def find_wrappers(controller: Controller, model: nn.Module) -> None:
    """Tells a controller of the wrappers around its adapter.

    Args:
        controller: of several processes.
        model: with the adapter. Where the wrapper is not inside, it is looked for in the next forward passes.
    """
    for wrapper in wrappers_in(model):
        controller.reducers.add(wrapper, controller.step)
    if controller.reducers.complete:
        return
    for handle in controller.handles.values():
        layer: nn.Module = handle.home  # pyright: ignore[reportAttributeAccessIssue] - the host's
        _WAITING[layer] = weakref.ref(controller)
        if _HOOK not in vars(layer):
            setattr(layer, _HOOK, layer.register_forward_pre_hook(_look))


def _look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    """A forward pre-hook; no closure, so that a model that waits for its next pass can be pickled."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return
    wrapper = DistributedDataParallel._get_active_ddp_module()
    controller = _WAITING.get(layer, lambda: None)()
    if wrapper is None or controller is None:
        return
    controller.reducers.add(wrapper, controller.step, in_forward=True)
    inside = set(map(id, wrapper.module.modules()))
    for other in [one for one in _WAITING if id(one) in inside]:
        del _WAITING[other]
        vars(other).pop(_HOOK).remove()
