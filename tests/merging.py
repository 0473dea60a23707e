"""What tests ask of layers that may be computed as one weight."""

from __future__ import annotations

from torch import Tensor, nn

from tapertune.host import ChainLayer
from tapertune.kernels import Call, Path, choose


def asked(module: nn.Module) -> str | None:
    """The adapter that may be merged while it is frozen, or None."""
    return module.merged_weight.request.frozen if isinstance(module, ChainLayer) else None


def made(module: nn.Module) -> bool:
    """Whether a layer's merged weight is there."""
    return isinstance(module, ChainLayer) and module.merged_weight.exists


def merges(layer: ChainLayer, x: Tensor) -> bool:
    """Whether a layer's output for x comes from one product."""
    state = layer.current()
    return state is not None and choose(state.spec, Call.of(x)) is Path.MERGED
