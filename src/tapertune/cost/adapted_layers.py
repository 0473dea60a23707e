"""A model's adapted layers in numbers, as they are now: for counting their operations."""

from __future__ import annotations

import torch
from torch import nn

from ..host import ChainLayer
from ..host.folding import folds_now
from ..host.nodes import fusable
from ..kernels import ONE_NODE, Adapted, kernel_name, most_elements

_HALF = (torch.float16, torch.bfloat16)


def adapted_layers(model: nn.Module, adapter: str = "default") -> list[dict[str, Adapted]]:
    """Adapted layers by their paths in the base model; those that read one input, and may be one node, together.

    To be asked as the model is in training: in training mode, and under autocast where training is.
    """
    groups: list[dict[str, Adapted]] = []
    for layer in (m for m in model.modules() if isinstance(m, ChainLayer) and adapter in m.chains):
        siblings = [layer] if layer.siblings.apart else layer.siblings.layers
        together = [one for one in siblings if adapter in one.chains]
        if layer is together[0]:
            groups.append({one.module_path: _numbers(one, adapter) for one in together})
    return groups


def _numbers(layer: ChainLayer, adapter: str) -> Adapted:
    chain, factors = layer.chains[adapter], {}
    sizes: dict[str, int] = {}
    for factor in chain:
        factors[factor.name] = layer.factor(adapter, factor.name)
        sizes.update(zip(factor.symbols, factors[factor.name].shape, strict=True))
    # after those of the factors: a shared one is as wide as the widest module
    sizes.update(d_in=layer.in_features, d_out=layer.out_features)
    weight = layer.get_base_layer().weight
    assert isinstance(weight, torch.Tensor), "a linear layer has a weight"
    x = torch.empty(0, layer.in_features, dtype=weight.dtype, device=weight.device)
    kernel = kernel_name()
    if kernel in ONE_NODE and not fusable(layer, x, adapter):
        kernel = "folded"
    half = weight.dtype in _HALF or _autocast(weight)
    return Adapted(
        chain=chain,
        sizes=sizes,
        trains=frozenset(name for name, factor in factors.items() if factor.requires_grad),
        kernel=kernel,
        half=half,
        dropout=layer.dropout(adapter) is not None,
        one_weight=folds_now(layer, x),
        small=most_elements(weight.device.type, half),
    )


def _autocast(weight: torch.Tensor) -> bool:
    return not weight.is_meta and torch.is_autocast_enabled(weight.device.type)
