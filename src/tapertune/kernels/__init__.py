"""How a chain is computed on activations. ``TAPERTUNE_KERNEL`` selects one for all layers:

``native`` (default, where a C++ compiler is at hand): as ``fused``, with products of narrow factors compiled for the
processor, in float32 and float64;
``fused``: base layer and chain as one node where that is possible and the input not small, else as ``folded``;
``folded``: the chain as two matrices around its narrowest place; ``reference``: factor by factor, as it is written.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..methods import Chain
from ..methods.base import Tensors
from .choice import by_token, has_node, joins, node
from .dense import dense_kept, dense_made
from .dropout import InputDropout, keep_mask, keep_scale
from .folded import folded
from .fused import Part, fused, fused_parts
from .reference import reference
from .selection import NAMES, ONE_NODE, kernel_name, uncompiled
from .small import is_small, most_elements, plain
from .transforms import transformed
from .work import Adapted, pass_flops

Kernel = Callable[[Chain, Tensor, Tensors, float], Tensor]

KERNELS: dict[str, Kernel] = {name: folded for name in NAMES} | {"reference": reference}
"""By name, how a chain is computed where it has no node of its own."""

__all__ = [
    "KERNELS",
    "ONE_NODE",
    "Adapted",
    "InputDropout",
    "Kernel",
    "Part",
    "by_token",
    "dense_kept",
    "dense_made",
    "folded",
    "fused",
    "fused_parts",
    "has_node",
    "is_small",
    "joins",
    "keep_mask",
    "keep_scale",
    "kernel_name",
    "most_elements",
    "node",
    "pass_flops",
    "plain",
    "reference",
    "transformed",
    "uncompiled",
]
