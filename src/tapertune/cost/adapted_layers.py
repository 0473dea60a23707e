"""A model's adapted layers in numbers, as they are now: for counting their operations."""

from __future__ import annotations

import torch
from torch import nn

from ..host import ChainLayer
from ..kernels import Adapted, Call


def adapted_layers(model: nn.Module, adapter: str = "default") -> list[dict[str, Adapted]]:
    """Adapted layers by their paths in the base model; those that read one input, and may be one node, together.

    To be asked as the model is in training: in training mode, and under autocast where training is.
    """
    groups: list[dict[str, Adapted]] = []
    for layer in (m for m in model.modules() if isinstance(m, ChainLayer) and adapter in m.chains):
        shared = layer.shared_input
        readers = [layer] if shared.apart else [one for one in shared.layers if isinstance(one, ChainLayer)]
        together = [one for one in readers if adapter in one.chains]
        if layer is together[0]:
            groups.append({one.module_path: _adapted(one, adapter) for one in together})
    return groups


def _adapted(layer: ChainLayer, adapter: str) -> Adapted:
    weight = next(layer.get_base_layer().parameters())
    x = torch.empty(0, layer.in_features, dtype=weight.dtype, device=weight.device)
    with torch.enable_grad():
        return Adapted(spec=layer.spec(adapter), call=Call.of(x))
