"""How many parameters a model has, however they are packed."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D


def weights(module: nn.Module) -> int:
    """Elements of a linear layer's matrix, however they are packed."""
    if isinstance(module, Conv1D):
        return module.weight.numel()
    assert isinstance(module, nn.Linear), "only linear layers have a matrix"
    return module.in_features * module.out_features


def sizes(model: nn.Module) -> dict[str, int]:
    """Elements of each parameter by name."""
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and f"{name}.weight" in counts:
            counts[f"{name}.weight"] = weights(module)
    return counts
