"""The kinds of layers that a chain can be put beside, and the class that does so for each."""

from __future__ import annotations

import functools
import sys
from typing import Any, cast

from torch import nn
from transformers.pytorch_utils import Conv1D

from .attention import AttentionLayer
from .convolution import ConvolutionLayer
from .embedding import EmbeddingLayer
from .layer import ChainLayer, layer_class
from .older_peft import resolve_quantization_backend

KINDS: tuple[Any, ...] = (EmbeddingLayer, ConvolutionLayer, AttentionLayer)
"""Those beside linear layers; each says what it ``adapts``."""

SUPPORTED = (
    "Linear layers (torch.nn.Linear, transformers' Conv1D and their quantised forms), torch.nn.Embedding, Conv1d,"
    " Conv2d, Conv3d and MultiheadAttention (with one width for queries, keys and values) are."
)


def kind_of(base: nn.Module) -> type[ChainLayer] | None:
    """The class for a base layer; of a linear one ``ChainLayer`` itself, None for what cannot be adapted."""
    for kind in KINDS:
        if kind.adapts(base):
            return kind
    return ChainLayer if is_linear(base) else None


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, quantised or not."""
    if isinstance(module, nn.Linear | Conv1D):
        return True
    if isinstance(module, nn.Embedding):
        return False
    return resolve_quantization_backend(module, get_apply_tensor_subclass=lambda: None) is not None


def adaptable(module: nn.Module) -> bool:
    """Whether a chain can be put beside a module."""
    return kind_of(module) is not None


def layer_class_for(method: str, base: nn.Module) -> type[ChainLayer]:
    """The layer class of a method for a base layer that can be adapted."""
    kind = kind_of(base)
    assert kind is not None, "asked for what can be adapted"
    return layer_class(method) if kind is ChainLayer else _combined(method, kind)


@functools.cache
def _combined(method: str, kind: type[ChainLayer]) -> type[ChainLayer]:
    linear = layer_class(method)
    name = f"{linear.__name__.removesuffix('Layer')}{kind.__name__}"
    cls = cast("type[ChainLayer]", type(name, (kind, linear), {"__module__": __name__}))
    setattr(sys.modules[__name__], name, cls)  # where pickle looks for it
    return cls


def paths_of(path: str, base: nn.Module) -> list[str]:
    """Paths of the adapted layers that a base layer at this path becomes."""
    return [path, *AttentionLayer.inner_paths(path)] if kind_of(base) is AttentionLayer else [path]


def facts_of(base: nn.Module) -> dict[str, Any]:
    """What its saved adapter's config says of a layer that is no linear one; nothing of one that is."""
    kind: Any = kind_of(base)
    return {} if kind in (None, ChainLayer) else kind.facts_of(base)
