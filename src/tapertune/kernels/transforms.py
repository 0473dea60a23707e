"""Who asks a kernel for more than a plain backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_C: Any = torch._C


def transformed() -> bool:
    """Whether a transform of ``torch.func``, or forward-mode differentiation, is at work: nodes of our own cannot take
    part, torch's operations can."""
    return _C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def graph_wanted(grads: Iterable[Tensor | None]) -> bool:
    """Whether a node's backward, which asks, is to be made of differentiable operations: its gradients are going to be
    differentiated again (``create_graph``), are many at once (``is_grads_batched``), or a transform is at work.

    Args:
        grads: of the node's outputs.
    """
    if torch.is_grad_enabled() or transformed():
        return True
    return any(grad is not None and _C._functorch.is_legacy_batchedtensor(grad) for grad in grads)
