"""Computes adapted layers along their paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from ..methods import Chain, Update
from ..methods.base import Tensors
from ..methods.mapped import MappedChain
from .dense import dense
from .dropout import InputDropout, keep_mask, keep_scale
from .eager import eager
from .fused import Part, fused_parts
from .merged import merged
from .paths import Call, Path, Spec, form_of
from .selection import uncompiled
from .vectors import merged_vectors, two_matrices


class State(Protocol):
    """What a layer's computation needs of it."""

    @property
    def spec(self) -> Spec: ...

    @property
    def update(self) -> Update: ...

    @property
    def weight(self) -> Tensor:
        """The base layer's, (d_out, d_in)."""
        ...

    @property
    def bias(self) -> Tensor | None:
        """The base layer's, (d_out,)."""
        ...

    @property
    def scaling(self) -> float:
        """On the update."""
        ...

    @property
    def dropout(self) -> InputDropout | None:
        """Of the update's input, while it does something."""
        ...

    def tensors(self) -> Tensors:
        """The factors by name."""
        ...

    def merged(self, weight: Tensor) -> Tensor:
        """``merged_weight`` with the base weight, which may have been cast."""
        ...


def run(path: Path, state: State, x: Tensor, call: Call, mask: Tensor | None = None) -> Tensor:
    """The output of a layer by itself; x (..., d_in) -> (..., d_out).

    Args:
        path: what ``choose`` has said of the layer's spec and the call; not unfused.
        state: the layer.
        x: the input.
        call: with x.
        mask: the dropout's on the eager path, while it does something.
    """
    if path is Path.EAGER:
        return _eager(state, x, call, mask)
    if path is Path.MERGED and not call.autocast:
        return merged(x, state.weight, state.bias, state.merged(state.weight))
    return run_fused(x, [state], call, path)[0]


def _eager(state: State, x: Tensor, call: Call, mask: Tensor | None) -> Tensor:
    if call.autocast:
        x = x.to(torch.get_autocast_dtype(call.device))  # once for base and chain
    scaling = state.scaling if state.dropout is None else state.scaling * keep_scale(state.dropout.p)
    return eager(cast(Chain, state.update), x, state.weight, state.bias, state.tensors(), scaling, mask)


@uncompiled
def run_fused(x: Tensor, states: Sequence[State], call: Call, path: Path = Path.FUSED) -> Sequence[Tensor]:
    """The outputs of layers that read x, in one node.

    Args:
        x: (..., d_in).
        states: of the layers; several on the fused path alone.
        call: with x.
        path: that of all.
    """
    if not call.autocast:
        return _fused(x, states, call, path, torch.bfloat16 if call.dtype == torch.bfloat16 else None)
    dtype = torch.get_autocast_dtype(call.device)
    with torch.autocast(call.device, enabled=False):
        return _fused(x.to(dtype), states, call, path, dtype)


def _fused(x: Tensor, states: Sequence[State], call: Call, path: Path, dtype: torch.dtype | None) -> Sequence[Tensor]:
    if path is not Path.FUSED:
        (state,) = states
        return [_alone(x, state, call, path, *_base(state, dtype))]
    parts = [
        Part.of(cast(Chain, state.update), *_base(state, dtype), state.tensors(), state.scaling, dtype)
        for state in states
    ]
    dropout = states[0].dropout
    if dropout is None:
        return fused_parts(x, parts)
    return fused_parts(x, parts, keep_mask(x, dropout.p), keep_scale(dropout.p))


def _alone(x: Tensor, state: State, call: Call, path: Path, weight: Tensor, bias: Tensor | None) -> Tensor:
    if path is Path.MERGED:
        return merged(x, weight, bias, state.merged(weight))
    tensors = state.tensors()
    if path is Path.DENSE_MAP:
        return dense(cast(MappedChain, state.update), x, weight, bias, tensors, state.scaling)
    matrices, form = two_matrices(state.update, tensors), form_of(state.spec, call)
    assert matrices is not None and form is not None, "the path says so"
    return merged_vectors(x, weight, bias, matrices, state.scaling, form)


def _base(state: State, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
    if dtype is None:
        return state.weight, state.bias
    return state.weight.to(dtype), None if state.bias is None else state.bias.to(dtype)
