"""How a chain is computed on activations. ``TAPERTUNE_KERNEL`` selects one for all layers:

``fused`` (default): base layer and chain as one node where that is possible, else as ``folded``;
``folded``: the chain as two matrices around its narrowest place; ``reference``: factor by factor, as it is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import Tensor

from ..errors import unknown
from ..methods import Chain
from ..methods.base import Tensors
from .choice import has_node, joins, node
from .dropout import InputDropout, keep_mask, keep_scale
from .folded import folded
from .fused import Part, fused, fused_parts
from .reference import reference
from .work import Adapted, pass_flops

Kernel = Callable[[Chain, Tensor, Tensors, float], Tensor]

KERNELS: dict[str, Kernel] = {"fused": folded, "folded": folded, "reference": reference}


def kernel_name() -> str:
    """The kernel that the environment selects."""
    name = os.environ.get("TAPERTUNE_KERNEL", "fused")
    if name not in KERNELS:
        raise unknown("kernel (TAPERTUNE_KERNEL)", name, KERNELS)
    return name


__all__ = [
    "KERNELS",
    "Adapted",
    "InputDropout",
    "Kernel",
    "Part",
    "folded",
    "fused",
    "fused_parts",
    "has_node",
    "joins",
    "keep_mask",
    "keep_scale",
    "kernel_name",
    "node",
    "pass_flops",
    "reference",
]
