"""What makes the same row something else the next time: dropout and its kind, and statistics of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..errors import TapertuneError

_RATES = ("dropout", "p", "dropout_p", "dropout_prob", "attention_dropout", "activation_dropout", "hidden_dropout",
          "attn_dropout", "resid_dropout", "drop_prob", "drop_path_rate", "attn_pdrop")  # fmt: skip
_DROPS = ("layerdrop", "layer_dropout", "encoder_layerdrop")
_NOISE = ("router_jitter_noise", "jitter_noise", "input_jitter_noise")


def dropout_in(modules: Iterable[tuple[str, nn.Module]]) -> str | None:
    """The first dropout that is not 0, as ``path (rate)``; None without one.

    Args:
        modules: by path.
    """
    for path, module in modules:
        is_dropout = "dropout" in type(module).__name__.lower() or "droppath" in type(module).__name__.lower()
        for name in _RATES:
            if name == "p" and not is_dropout:
                continue
            rate = vars(module).get(name)
            if isinstance(rate, float | int) and not isinstance(rate, bool) and 0 < rate <= 1:
                return f"{path or type(module).__name__} ({'' if name == 'p' else name + ' '}{rate:g})"
    return None


def check_randomness(modules: Iterable[tuple[str, nn.Module]], config: Any) -> None:
    """
    Args:
        modules: of the frozen layers, by path.
        config: the model's.

    Raises:
        TapertuneError: what they compute of a row depends on chance, or on the other rows of its batch, in a way that
            no setting of the cache switches off; the setting that does is named.
    """
    for path, module in modules:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise TapertuneError(
                f"cache: {path} is a {type(module).__name__}, which computes a row from the others of its batch: what "
                "enters the next layer is no constant, and cannot be kept"
            )
    for name in (*_DROPS, *_NOISE):
        value = getattr(config, name, None)
        if isinstance(value, float | int) and value > 0:
            raise TapertuneError(
                f"cache: the model's config.{name} is {value:g}, which makes frozen layers random: it must be 0"
            )


def refuse_dropout(found: str) -> TapertuneError:
    """The error for a model with dropout in layers that are to be kept."""
    return TapertuneError(
        f"cache: there is dropout in layers that freeze, {found}, so that what leaves them is no constant: set "
        "cache.dropout to off, which switches it off in frozen layers alone, or the model's dropout to 0"
    )


class Quiet:
    """Modules in evaluation mode for a while, so that they draw nothing.

    Args:
        modules: those to switch.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)
        self._switched: list[nn.Module] = []

    def on(self) -> None:
        """Switches those that train; twice is once."""
        if not self._switched:
            self._switched = [module for module in self._modules if module.training]
            for module in self._switched:
                module.training = False

    def off(self) -> None:
        """As it was before."""
        for module in self._switched:
            module.training = True
        self._switched = []


def autocast_of(device: torch.device) -> str:
    """The number type that products are computed in under autocast, or nothing."""
    on = torch.is_autocast_enabled(device.type)
    return str(torch.get_autocast_dtype(device.type)) if on else ""
