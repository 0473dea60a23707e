"""An adapter's factors without a model, for controllers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Factor:
    """A factor whose parameter is counted each time it is looked up."""

    name: str
    module: str
    factor: str
    symbols: tuple[str, ...]
    home: nn.ParameterDict
    lookups: list[str]
    layer: int | None = 0
    row: str = ""
    kind: str = "ffn"
    shared: bool = False

    @property
    def matrix(self) -> bool:
        return len(self.symbols) == 2

    @property
    def parameter(self) -> nn.Parameter:
        self.lookups.append(self.name)
        return self.home[self.factor]

    @property
    def frozen(self) -> bool:
        return not self.home[self.factor].requires_grad

    @property
    def pruned(self) -> bool:
        return False

    def freeze(self) -> None:
        self.home[self.factor].requires_grad_(False)

    def thaw(self) -> None:
        self.home[self.factor].requires_grad_(True)

    def settle(self) -> None:
        if not self.home[self.factor].numel():
            self.freeze()

    def fold(self) -> bool:
        return False

    def unfold(self) -> None:
        return None


def triplets(widths: Sequence[tuple[int, int]], rank: int = 4) -> list[Factor]:
    """AdaLoRA's chain in modules of some (d_in, d_out)."""
    torch.manual_seed(0)
    made: list[Factor] = []
    lookups: list[str] = []
    for i, (d_in, d_out) in enumerate(widths):
        shapes = {"A": (rank, d_in), "E": (rank,), "B": (d_out, rank)}
        home = nn.ParameterDict({name: torch.randn(shape) for name, shape in shapes.items()})
        for name, symbols in (("A", ("r", "d_in")), ("E", ("r",)), ("B", ("d_out", "r"))):
            made.append(
                Factor(name=f"{i}.{name}", module=str(i), factor=name, symbols=symbols, home=home, lookups=lookups)
            )
    return made


def gradients(factors: Sequence[Factor], seed: int) -> None:
    """Random gradients on every factor."""
    generator = torch.Generator().manual_seed(seed)
    for factor in factors:
        parameter = factor.home[factor.factor]
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 0.1
