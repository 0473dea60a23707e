"""How many parameters a model has, however they are packed."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

from ..host.widths import CONVOLUTIONS, widths_of

LAYERS = (nn.Linear, Conv1D, *CONVOLUTIONS)
"""Layers whose work is a product with a matrix."""


def weights(module: nn.Module) -> int:
    """Elements of the matrix that each vector of a layer's output takes a product with, however they are packed; none
    of an embedding, which copies."""
    if isinstance(module, nn.Embedding):
        return 0
    d_in, d_out = widths_of(module)
    return d_in * d_out


def sizes(model: nn.Module) -> dict[str, int]:
    """Elements of each parameter by name."""
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and f"{name}.weight" in counts:
            counts[f"{name}.weight"] = weights(module)
    return counts
