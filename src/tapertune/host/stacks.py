"""Parameters that hold many matrices, such as a layer's experts."""

from __future__ import annotations

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .paths import owner_of


def stacked_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Matrices stacked in one 3D parameter, such as a layer's experts, by path."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() == 3 and min(parameter.shape) > 1 and _is_custom(model.get_submodule(owner_of(name)))
    }


def without_wrappers(path: str) -> str:
    """The path that a parameter has in the base model, before layers were put around modules.

    >>> without_wrappers("layers.0.experts.base_layer.down_proj")
    'layers.0.experts.down_proj'
    """
    return path.replace(".base_layer.", ".")


def _is_custom(module: nn.Module) -> bool:
    """Whether a module's class is no layer of torch's (a convolution, say), nor of PEFT's kind."""
    return not type(module).__module__.startswith("torch.nn.") and not isinstance(module, BaseTunerLayer)
