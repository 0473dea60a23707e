"""Keeps the weights of bitsandbytes' 4-bit layers in the layout that gradients pass through.

On processors with bfloat16 instructions bitsandbytes lays these weights out anew when they are first evaluated, for
kernels without gradients, and leaves them so: training would go on without the gradients of lower layers.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from ..errors import TapertuneError

_SWITCH = "support_avx512bf16_for_cpu"  # of a layer, read in each of its evaluations


def keep_layout(model: nn.Module, *, trains: bool) -> None:
    """Has the model's 4-bit layers, adapted or not, compute alike in training and evaluation. Those that an evaluation
    has already laid out anew can be evaluated further, and refuse to compute where gradients are taken.

    Args:
        model: the base model.
        trains: whether gradients are wanted.
    """
    for name, module in model.named_modules():
        if not hasattr(module, _SWITCH):
            continue
        setattr(module, _SWITCH, False)
        state = getattr(module.weight, "quant_state", None)
        if trains and getattr(state, "packing_format_for_cpu", False):
            module.register_forward_pre_hook(functools.partial(_refuse_gradients, name))


def _refuse_gradients(name: str, module: nn.Module, args: Any) -> None:
    """
    Raises:
        TapertuneError: gradients are taken.
    """
    if torch.is_grad_enabled():
        raise TapertuneError(
            f"the model's 4-bit layer {name!r} was evaluated before it had an adapter, which has left its weights"
            " in a layout without gradients: load the model again and put the adapter on first"
        )
