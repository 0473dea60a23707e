"""Batches whose rows go through different adapters: ``model(x, adapter_names=[...])``, as PEFT's LoRA has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from ..errors import TapertuneError, unknown
from .layer import BASE_ROWS, ChainLayer
from .parameter_layer import ParameterLayer


@contextmanager
def rows_by_adapter(model: nn.Module, names: Sequence[str] | None, beams: Any = None) -> Iterator[None]:
    """While inside, every adapted layer of the model gives each row of its input the adapter that is named for it.

    Args:
        model: with adapted layers, and perhaps modules that PEFT saves whole.
        names: an adapter for each row of the batch, or ``__base__`` for none; None changes nothing.
        beams: ``num_beams`` of ``generate``, which repeats rows: outside an encoder each name counts for its beams.

    Raises:
        TapertuneError: in training, with merged adapters or a name that no layer has.
    """
    if names is None:
        yield
        return
    _check(model, names)
    count = beams if isinstance(beams, int) and beams > 1 else 1
    base: Any = getattr(model, "model", model)
    config = getattr(base, "config", None)
    encoder = base.get_encoder() if count > 1 and getattr(config, "is_encoder_decoder", False) else None
    encoded = set() if encoder is None else set(encoder.modules())
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, ChainLayer | AuxiliaryTrainingWrapper):
                rows = [name for name in names for _ in range(1 if module in encoded else count)]
                hook = module.register_forward_pre_hook(partial(_name_rows, rows), with_kwargs=True)
                stack.callback(hook.remove)
        yield


def _name_rows(names: list[str], layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    return args, {**kwargs, "adapter_names": names}


def _check(model: nn.Module, names: Sequence[str]) -> None:
    layers = [module for module in model.modules() if isinstance(module, ChainLayer)]
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TapertuneError(f"adapter_names is {names!r}; allowed: a list of an adapter's name for each row")
    if model.training:
        raise TapertuneError("adapter_names: rows can have adapters of their own in evaluation only; call model.eval()")
    held = next((module for module in model.modules() if isinstance(module, ParameterLayer)), None)
    if held is not None:
        raise TapertuneError(
            f"adapter_names: rows cannot have adapters of their own where parameters are adapted "
            f"({', '.join(held.parameter_names)}): which row a token is of is not known there"
        )
    if any(layer.merged for layer in layers):
        raise TapertuneError("adapter_names: an adapter is merged into the base weights; call unmerge_adapter first")
    known = sorted({name for layer in layers for name in layer.chains})
    for name in names:
        if name != BASE_ROWS and name not in known:
            raise unknown("adapter (adapter_names)", name, [*known, BASE_ROWS])
