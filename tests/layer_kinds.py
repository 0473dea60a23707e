"""Small models with one layer of each kind that is not linear, named ``part``, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

import tapertune
from tapertune.methods import METHODS


class Embedded(nn.Module):
    """Tokens, of which 0 is for padding."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.part = nn.Embedding(20, 6, padding_idx=0, **values)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.part(x))


class Convolved(nn.Module):
    """A convolution, and the mean over its positions."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.part(x)).flatten(2).mean(-1))


class Attending(nn.Module):
    """Torch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.part(x, x, x, need_weights=False)[0])


def _image(*sizes: int) -> Tensor:
    return torch.randn(2, 4, *sizes, generator=torch.Generator().manual_seed(3))


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "embedding": (Embedded, torch.arange(20).view(2, 10)),
    "conv1d": (lambda: Convolved(nn.Conv1d(4, 6, 3, stride=2, padding=1)), _image(9)),
    "conv2d": (lambda: Convolved(nn.Conv2d(4, 6, 3, padding=1)), _image(7, 7)),
    "conv3d": (lambda: Convolved(nn.Conv3d(4, 6, (1, 2, 3))), _image(2, 4, 5)),
    "groups": (lambda: Convolved(nn.Conv2d(4, 6, 3, groups=2)), _image(7, 7)),
    "dilated": (lambda: Convolved(nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2)), _image(9, 9)),
    "reflect": (
        lambda: Convolved(nn.Conv2d(4, 6, (2, 3), padding="same", padding_mode="reflect", bias=False)),
        _image(7, 7),
    ),
    "same": (lambda: Convolved(nn.Conv2d(4, 6, (2, 3), padding="same")), _image(7, 7)),
    "attention": (Attending, torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3))),
}
NOT_IN_PEFT = ("dilated", "reflect")
"""Cases of which PEFT's LoRA computes another update."""


def base_of(case: str) -> nn.Module:
    """The model of a case, always the same."""
    torch.manual_seed(0)
    return CASES[case][0]()


def adapted(case: str | nn.Module, method: str, **values: Any) -> PeftModel:
    """The model with an adapter on its part; random, not an identity, unless told otherwise."""
    base = base_of(case) if isinstance(case, str) else case
    torch.manual_seed(1)
    values = {METHODS[method].rank: 4, "target_modules": ["part"], "init_weights": False, **values}
    return get_peft_model(base, tapertune.make_config(method, **values))


def rotation(count: int) -> list[str]:
    """A method for each of so many cases, in turn."""
    names = list(METHODS)
    return [names[i % len(names)] for i in range(count)]
