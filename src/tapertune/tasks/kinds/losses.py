"""Losses in which classes have weights, as Trainer calls a ``compute_loss_func``.

A row's loss is multiplied by its class's weight, and the sum divided by the number of rows: rows count alike whatever
batch, pass or process they are in. (torch's own mean divides by the weights in the batch, which in a batch of one class
takes them out again.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[..., Tensor]


def weighted_cross_entropy(weights: Sequence[float]) -> Loss:
    """Of logits (rows x classes) and class numbers (rows).

    >>> loss = weighted_cross_entropy([1.0, 3.0])
    >>> round(float(loss({"logits": torch.zeros(2, 2)}, torch.tensor([0, 1]))), 4)  # (1 + 3) / 2 * log 2
    1.3863
    """

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        logits = outputs["logits"].float()
        total = F.cross_entropy(logits, labels.view(-1), _like(weights, logits), reduction="sum")
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    return loss


def weighted_binary_cross_entropy(weights: Sequence[float]) -> Loss:
    """Of logits (rows x classes) and truth values (rows x classes): those that are true count by the class's weight."""

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        logits = outputs["logits"].float()
        total = F.binary_cross_entropy_with_logits(
            logits, labels.float(), pos_weight=_like(weights, logits), reduction="sum"
        )
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    return loss


def _like(weights: Sequence[float], logits: Tensor) -> Tensor:
    return torch.tensor(weights, dtype=logits.dtype, device=logits.device)
