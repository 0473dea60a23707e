"""A frozen convolution and its chain as one autograd node.

    y = x * W + c + (x * down) * up        (* is a convolution)

``down`` has the base's window (k x k) and strides, ``up`` is 1 x 1. Composed, the chain is the matrix (d_out, d_in)
that W is when its last axes are made one: d_in = channels / groups x k x k. In a convolution of several groups each
group of channels goes through the same ``down``, and through the rows of ``up`` that are its outputs', as it goes
through its rows of W: base and update add up to one weight of the same layout.

The input is kept once, for ``down`` alone; a frozen base needs it for nothing, though torch's convolution keeps it. In
two convolutions side by side it would be kept twice. The update is added in place. The r-wide product is an output of
the node, too, which nobody sees: gradients that are differentiated again reach the input and ``down`` through it.

Legend: n rows, g groups, c channels, r rank, p positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..methods import Update
from ..methods.base import Tensors
from .dropout import masked
from .transforms import graph_wanted

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_BACKWARD: Any = torch.ops.aten.convolution_backward


@dataclass(frozen=True)
class Window:
    """How a convolution goes over its input.

    Attributes:
        shape: of the window, (k, ...).
        stride, padding, dilation: for each of its axes; the padding is with zeros, on both sides.
        groups: of channels.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def over(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The convolution of x (n, c, ...)."""
        convolution = _CONVOLUTIONS[len(self.shape)]
        return convolution(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def weights(self, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """A chain's two matrices, (r, d_in) and (d_out, r), as weights: (g r, c / g, k, ...) and (d_out, r, 1, ...)."""
        rank = down.shape[0]
        tiled = down.reshape(rank, -1, *self.shape)
        ones = (1,) * len(self.shape)
        tiled = tiled if self.groups == 1 else tiled.repeat(self.groups, 1, *ones)
        return tiled, up.reshape(*up.shape, *ones)

    @property
    def point(self) -> Window:
        """That of ``up``."""
        ones, zeros = (1,) * len(self.shape), (0,) * len(self.shape)
        return Window(ones, ones, zeros, ones, self.groups)

    def grads(
        self, dy: Tensor, x: Tensor | Sequence[int], weight: Tensor, *, input: bool, weights: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of an input and a weight; the input may be its shape where the weight wants none."""
        if not (input or weights):
            return None, None
        given = x if isinstance(x, Tensor) else dy.new_empty(1).expand(tuple(x))
        zeros = (0,) * len(self.shape)
        window = (list(self.stride), list(self.padding), list(self.dilation), False, list(zeros), self.groups)
        dx, dw, _ = _BACKWARD(dy, given, weight, None, *window, [input, weights, False])
        return dx, dw


class _ConvolutionWithChain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor | None, window: Window, weight: Tensor, bias: Tensor | None, *pair: Tensor
    ) -> tuple[Tensor, Tensor]:
        down, up = pair
        y = window.over(x, weight, bias)
        low = window.over(x if mask is None else masked(x, mask), down)
        y.add_(window.point.over(low, up))
        ctx.window, ctx.shape, ctx.low_shape = window, x.shape, low.shape
        trains_down, trains_up = ctx.needs_input_grad[5:]
        ctx.save_for_backward(x if trains_down else None, low if trains_up else None, mask, weight, down, up)
        ctx.set_materialize_grads(False)
        return y, low

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, dy: Tensor | None, d_low: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, low, mask, weight, down, up = ctx.saved_tensors
        wants_input, trains_down, trains_up = (ctx.needs_input_grad[i] for i in (0, 5, 6))
        window: Window = ctx.window
        dx = d_down = d_up = None
        if dy is not None:
            given = ctx.low_shape if low is None else low
            wants_low = wants_input or trains_down
            back, d_up = window.point.grads(dy, given, up, input=wants_low, weights=trains_up)
            d_low = back if d_low is None else d_low if back is None else d_low + back
            dx, _ = window.grads(dy, ctx.shape, weight, input=wants_input, weights=False)
        if d_low is not None:
            inputs = ctx.shape if x is None else x if mask is None else masked(x, mask)
            more, d_down = window.grads(d_low, inputs, down, input=wants_input, weights=trains_down)
            if more is not None:
                more = more if mask is None else masked(more, mask)
                dx = more if dx is None else dx + more if graph_wanted((dy, d_low)) else dx.add_(more)
        return dx, None, None, None, None, d_down, d_up


def convolve(
    window: Window,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pair: tuple[Tensor, Tensor],
    mask: Tensor | None = None,
) -> Tensor:
    """``x * weight + bias + (x mask * down) * up`` for a frozen base; x (n, c, ...) -> (n, d_out, ...).

    Args:
        window: of the base.
        x, weight, bias: of one dtype; the base's without gradient.
        pair: ``down`` and ``up`` as ``Window.weights`` has them, of that dtype; all scaling is in ``up``.
        mask: ones and zeros (uint8) in the shape of x.
    """
    outputs: Any = _ConvolutionWithChain.apply(x, mask, window, weight, bias, *pair)
    return outputs[0]


def convolution_update(window: Window, update: Update, x: Tensor, tensors: Tensors, scaling: float) -> Tensor:
    """``scaling * update`` of x (n, c, ...) by itself, in torch's own operations.

    Args:
        window: of the base.
        update: a chain, or one under a map.
        x: of the factors' dtype.
        tensors: the factors by name.
        scaling: on the update.
    """
    if not update.linear:
        delta = update.delta_weight(tensors) * scaling
        return window.over(x, delta.to(x.dtype).reshape(delta.shape[0], -1, *window.shape))
    down, up = window.weights(*update.lora_factors(tensors))
    return window.point.over(window.over(x, down.to(x.dtype)), (up * scaling).to(x.dtype))
