"""A matrix that a module holds in a parameter, alone or stacked with others as experts' are, with its adapters."""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from torch import Tensor, nn

from ..methods import get_method
from .layer import ChainLayer, layer_class


class HeldMatrix(nn.Module):
    """A matrix of a parameter in the place of a linear layer: (d_out, d_in), however it is stored.

    Args:
        home: the module that has the parameter.
        parameter: its name there.
        index: which matrix of the stack it is; None where the parameter is one matrix.
        transposed: whether it is stored (d_in, d_out).
    """

    def __init__(self, home: nn.Module, parameter: str, index: int | None, transposed: bool) -> None:
        super().__init__()
        self._home = (home,)  # not a child, which would save the parameter once more
        self.parameter, self.index, self.transposed = parameter, index, transposed
        # the names that peft's reader of widths looks for
        self.output_size, self.input_size = self.weight.shape

    @property
    def weight(self) -> Tensor:
        """A view of the parameter."""
        whole = held_parameter(self._home[0], self.parameter).detach()
        weight = whole if self.index is None else whole[self.index]
        return weight.mT if self.transposed else weight

    def extra_repr(self) -> str:
        return f"{self.parameter!r}, index={self.index}"


class RowCounter:
    """Counts the rows of inputs that go through each matrix of a stack.

    Args:
        count: of the matrices.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._rows: Tensor | None = None

    def add(self, which: Tensor) -> None:
        """Counts rows.

        Args:
            which: for which matrix each is, of whole numbers; those beyond the last are of none.
        """
        if self._rows is None or self._rows.device != which.device:
            self._rows = torch.zeros(self.count + 1, dtype=torch.int64, device=which.device)
        flat = which.detach().reshape(-1).long().clamp(0, self.count)
        self._rows.scatter_add_(0, flat, torch.ones_like(flat))

    def without_rows(self) -> list[int]:
        """The matrices that no row has gone through; none where nothing was counted."""
        rows = [] if self._rows is None else self._rows[:-1].tolist()
        return [i for i, count in enumerate(rows) if not count]


class HeldMatrixLayer(ChainLayer):
    """The adapters of one held matrix. It is never called: what holds it reads its factors.

    Attributes:
        routed: whether it is one of several, of which a row of an input goes through some.
    """

    base_layer: HeldMatrix
    row_counter: RowCounter

    @property
    def routed(self) -> bool:
        return self.base_layer.index is not None

    @property
    def unreached(self) -> bool:
        """Whether rows were counted, and none went through it."""
        return self.base_layer.index in self.row_counter.without_rows()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        raise TypeError(f"{self.module_path} is part of a parameter; the module that has it is called")

    def get_base_weight(self) -> Tensor:
        return self.base_layer.weight

    @torch.no_grad()
    def set_base_weight(self, weight_data: Tensor) -> None:
        self.base_layer.weight.copy_(weight_data)


def held_parameter(home: nn.Module, name: str) -> Tensor:
    """A module's parameter, also while another tensor stands for it."""
    own = home._parameters.get(name)
    return own if own is not None else getattr(home, name)


@functools.cache
def held_matrix_class(name: str) -> type[HeldMatrixLayer]:
    """The class of a method's held matrices; PEFT tells methods apart by class."""
    row = get_method(name)
    cls = type(f"{row.title}HeldMatrix", (HeldMatrixLayer, layer_class(name)), {"__module__": __name__})
    setattr(sys.modules[__name__], cls.__name__, cls)  # where pickle looks for it
    return cls
