"""Initialisations that the methods' factors name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .base import Init


@dataclass(frozen=True)
class Fill:
    """Fills a tensor by one of ``torch.nn.init``'s functions. Unlike a closure, it can be pickled with a model.

    Args:
        function: takes the tensor and the values.
        values: the function's other arguments, by name.
    """

    function: Callable[..., Any]
    values: tuple[tuple[str, float], ...]

    def __call__(self, tensor: Tensor) -> None:
        self.function(tensor, **dict(self.values))


def kaiming_uniform(a: float = 0.0) -> Init:
    """Uniform within sqrt(6 / ((1 + a^2) fan_in)) of zero; ``a = sqrt(5)`` is ``torch.nn.Linear``'s own."""
    return Fill(nn.init.kaiming_uniform_, (("a", a),))


def constant(value: float) -> Init:
    """Every element ``value``."""
    return Fill(nn.init.constant_, (("val", value),))


def normal(std: float) -> Init:
    """Normal around zero."""
    return Fill(nn.init.normal_, (("std", std),))


zeros = constant(0.0)
linear_default = kaiming_uniform(math.sqrt(5))
