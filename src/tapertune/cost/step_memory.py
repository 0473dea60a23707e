"""What a training step holds in memory, from shapes alone: the step is taken on tensors without storage.

A model on the meta device goes through forward and backward; every tensor that an operation makes is counted from its
making to its end, so that what autograd keeps is known as well as what is there for a moment only. Two operations work
otherwise on meta tensors than on the device that they stand for, and are replaced: attention, which there keeps its
inputs and its output and no table of all pairs, and dropout on an accelerator, which keeps a byte an element.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..kernels.paths import standing_for


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """Bytes of a training step beyond weights and optimizer.

    Attributes:
        held: at the end of the forward pass: what backward needs.
        peak: the most at any moment of the two passes, gradients among it.
        forward: the most at any moment of an evaluation's forward pass.
    """

    held: float
    peak: float
    forward: float


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make while it is on, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor) and (key := each.untyped_storage()._cdata) not in given:
                self._note(key, each)
        return out

    def _note(self, key: int, tensor: Tensor) -> None:
        if key in self._sizes:
            return
        storage = tensor.untyped_storage()
        self._sizes[key] = storage.nbytes()
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key, 0)


class _Attention(torch.autograd.Function):
    """What a fused attention keeps: its inputs, its output, and a number for each query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, tokens, _ = query.shape
        out = query.new_empty(batch, tokens, heads, value.shape[-1]).transpose(1, 2)  # as it lies in memory there
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class _Stands(TorchFunctionMode):
    """Operations on meta tensors, as those of a device work."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._away = device != "cpu"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and (self._away or not _drops(*args, **kwargs)):
            return _Attention.apply(*_alike(*args, **kwargs))
        if func is F.dropout and self._away:
            return _native_dropout(*args, **kwargs)
        return func(*args, **kwargs)


def _drops(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, *args: Any, **kwargs: Any
) -> bool:
    """Whether attention's weights are dropped, which processors have no fused attention for."""
    return dropout_p > 0


def _alike(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    return query, key, value


def _native_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(input, p, training)[0] if training and p else input


def step_bytes(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    evaluated: Mapping[str, Tensor] | None = None,
    *,
    device: str = "cpu",
    autocast: bool = False,
) -> StepBytes:
    """What a training step and an evaluation's pass hold.

    Args:
        model: on the meta device, with that training which trains.
        inputs: keyword arguments of its forward, labels among them: a batch's.
        evaluated: those of an evaluation's batch; without it there is none.
        device: what it stands for: ``cpu`` or ``cuda``.
        autocast: whether that is on there.
    """
    with standing_for(device, autocast=autocast), _Stands(device):
        held, peak = _training(model.train(), lambda: model(**inputs).loss)
        forward = 0 if evaluated is None else _evaluating(model.eval(), lambda: model(**evaluated))
    model.train()
    model.zero_grad()
    return StepBytes(held=held, peak=peak, forward=forward)


def _training(model: nn.Module, loss: Callable[[], Tensor]) -> tuple[int, int]:
    with Live() as live, torch.enable_grad():
        value = loss()
        held = live.bytes
        value.backward()
    return held, live.peak


def _evaluating(model: nn.Module, forward: Callable[[], Any]) -> int:
    with Live() as live, torch.no_grad():
        out = forward()
        peak = live.peak
        del out
    return peak


@contextmanager
def counted() -> Iterator[Live]:
    """The live bytes of what is done in here; for real tensors as well."""
    with Live() as live:
        yield live
