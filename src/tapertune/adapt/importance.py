"""Importance: how much the loss still responds to each weight, smoothed over steps.

    I = |g| (or |g p|, |g / p|);  mean = b1 mean + (1 - b1) I;  dev = b2 dev + (1 - b2) |I - mean|;  score = mean * dev

(AFLoRA, after AdaLoRA and PLATON.) Averages start at zero, without bias correction. With a
``window`` of N steps they take in the mean of I over each N steps instead, when the next window begins, as AFLoRA's
released code does. Gradients are seen as the optimizer sees them: accumulated, unscaled and clipped (the released code
scores them before clipping).

``change`` is no size but a movement: how much the norm of a tensor's gradient, summed over a window of steps, differs
from that of the window before (AutoFreeze, Liu et al. 2021).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ..errors import bad_value
from .blocks import runs
from .spec import check_range, spec

_FUSED = cast(Any, torch)  # the multi-tensor operations of torch.optim, which torch does not declare


@dataclass(frozen=True, kw_only=True)
class Importance:
    """What scores are made of.

    Attributes:
        window: steps averaged before each update, or None to update at every step.
        reads_weights: whether ``weigh`` looks at parameters.
        compares: whether windows are compared, by the norms of their summed gradients, rather than averaged.
    """

    window: int | None = None

    reads_weights: ClassVar[bool] = False
    compares: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number = isinstance(self.window, int) and not isinstance(self.window, bool)
        if self.window is not None and (not number or self.window < 1):
            raise bad_value("importance.window", self.window, "a positive whole number of steps, or null")

    def weigh(self, gradients: list[Tensor], parameters: list[Tensor]) -> None:
        """Turns gradients into raw signals in place, sign still on."""


@dataclass(frozen=True, kw_only=True)
class _Importance(Importance):
    """Settings of the averages.

    Attributes:
        beta1: memory of the mean.
        beta2: memory of the deviation.
        window: steps averaged before each update of the two, or None to update at every step.
    """

    beta1: float = 0.85
    beta2: float = 0.95

    def __post_init__(self) -> None:
        check_range("importance.beta1", self.beta1, 0, 1)
        check_range("importance.beta2", self.beta2, 0, 1)
        super().__post_init__()


@spec("|g|")
@dataclass(frozen=True, kw_only=True)
class Gradient(_Importance):
    """Size of the gradient: AFLoRA's choice."""


@spec("|g*p|")
@dataclass(frozen=True, kw_only=True)
class GradientTimesWeight(_Importance):
    """Gradient times weight: AdaLoRA's sensitivity."""

    reads_weights: ClassVar[bool] = True

    def weigh(self, gradients: list[Tensor], parameters: list[Tensor]) -> None:
        _FUSED._foreach_mul_(gradients, parameters)


@spec("|g/p|")
@dataclass(frozen=True, kw_only=True)
class GradientOverWeight(_Importance):
    """Gradient relative to the weight; a weight that is exactly zero is not observed."""

    reads_weights: ClassVar[bool] = True

    def weigh(self, gradients: list[Tensor], parameters: list[Tensor]) -> None:
        _FUSED._foreach_div_(gradients, parameters)


@spec("change")
@dataclass(frozen=True, kw_only=True)
class Change(Importance):
    """``abs(|G| - |G'|) / |G'|`` for the gradients of a tensor summed over a window, G, and over the one before, G':
    the same for all its elements, and 1 until there are two windows. AutoFreeze's choice, where a window is the time
    between evaluations.

    Attributes:
        window: steps of a window.
    """

    window: int | None = 10

    compares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is None:
            raise bad_value("importance.window", self.window, "a positive whole number of steps")


IMPORTANCES = (Gradient, GradientTimesWeight, GradientOverWeight, Change)


@dataclass
class Scores:
    """What a policy decides from.

    Attributes:
        names: of the matrices still scored, in a fixed order.
        elements: all their element scores, concatenated in that order.
        sizes: elements of each.
        shapes: of each.
        unreached: names of matrices that have no score, as no gradient has reached them: nothing is decided on them.
    """

    names: list[str]
    elements: Tensor
    sizes: list[int]
    shapes: list[torch.Size] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)

    def shaped(self) -> dict[str, Tensor]:
        """Element scores of each matrix in its shape."""
        parts = self.elements.split(self.sizes)
        return {n: part.view(shape) for n, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def means(self) -> Tensor:
        """Mean score of each matrix."""
        edges = list(itertools.accumulate(self.sizes, initial=0))
        like = list(runs(self.sizes))
        means = [self.elements[edges[a] : edges[b]].view(b - a, self.sizes[a]).mean(1) for a, b in like]
        return torch.cat(means) if means else self.elements.new_zeros(0)
