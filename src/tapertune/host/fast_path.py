"""Keeps torch's transformer layers off the path on which they read weights rather than call their linear layers.

In evaluation ``nn.TransformerEncoderLayer`` hands its weights to one operation, and adapters would count for nothing. A
hook on the layer is torch's own reason not to. ``nn.TransformerEncoder`` also turns padded batches into nested tensors
for that operation alone.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .layer import ChainLayer

_NESTED = "_nested_before_adapters"


def leave_fast_path(model: nn.Module) -> None:
    """Has the model's torch transformer layers that hold adapters call their parts, in evaluation too."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and _adapted(module) and not _hooks(module):
            module.register_forward_pre_hook(_call_the_parts)
        elif isinstance(module, nn.TransformerEncoder) and _adapted(module) and _NESTED not in vars(module):
            setattr(module, _NESTED, getattr(module, "use_nested_tensor", False))
            module.use_nested_tensor = False


def rejoin_fast_path(model: nn.Module) -> None:
    """Takes ``leave_fast_path`` back wherever there is no adapter any more."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and not _adapted(module):
            for key in _hooks(module):
                del module._forward_pre_hooks[key]
        elif isinstance(module, nn.TransformerEncoder) and _NESTED in vars(module) and not _adapted(module):
            module.use_nested_tensor = vars(module).pop(_NESTED)


def _call_the_parts(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    """A forward pre-hook that does nothing but be there; no closure, so that models can be pickled."""


def _hooks(layer: nn.Module) -> list[int]:
    # found by what they are: handles do not survive copying
    return [key for key, hook in layer._forward_pre_hooks.items() if hook is _call_the_parts]


def _adapted(module: nn.Module) -> bool:
    return any(isinstance(part, ChainLayer) and part.chains for part in module.modules())
