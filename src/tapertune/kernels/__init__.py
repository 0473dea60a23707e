"""How an update is computed on activations. ``TAPERTUNE_KERNEL`` selects how, for all layers:

``native`` (default, where a C++ compiler is at hand): as ``fused``, with products of narrow factors compiled for the
processor, in float32 and float64;
``fused``: base layer and update as one node where that is possible and the input not small, else as ``lowrank``;
``lowrank``: the update as two matrices around its bottleneck; ``reference``: factor by factor, as it is written.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..methods import Update
from ..methods.base import Tensors
from .dropout import InputDropout, keep_mask
from .lowrank import lowrank
from .merged import merged_weight
from .paths import Adapted, Call, Path, Reads, Spec, choose, narrows, pass_flops
from .reference import reference
from .run import State, run, run_fused
from .selection import FUSED_KERNELS, NAMES, kernel_name
from .transforms import transformed

Kernel = Callable[[Update, Tensor, Tensors, float], Tensor]

KERNELS: dict[str, Kernel] = {name: lowrank for name in NAMES} | {"reference": reference}
"""By name, how an update is computed on the unfused path."""

__all__ = [
    "FUSED_KERNELS",
    "KERNELS",
    "Adapted",
    "Call",
    "InputDropout",
    "Kernel",
    "Path",
    "Reads",
    "Spec",
    "State",
    "choose",
    "keep_mask",
    "kernel_name",
    "lowrank",
    "merged_weight",
    "narrows",
    "pass_flops",
    "reference",
    "run",
    "run_fused",
    "transformed",
]
