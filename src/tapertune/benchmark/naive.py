"""Methods that PEFT does not have, computed as their equations stand, as the released codes do it.

Each layer adds its update to the frozen layer's output and leaves everything to autograd. Scores are kept tensor by
tensor, and penalties are terms of the loss. Our own code, written to be compared with; nothing else uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NaiveLayer(nn.Module):
    """A frozen linear layer with an update beside it.

    Attributes:
        scored: names of the parameters whose sensitivity is followed at each step.
    """

    scored: tuple[str, ...] = ()

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.sizes = base.in_features, base.out_features

    def matrix(self, rows: int, columns: int) -> nn.Parameter:
        like = self.base_layer.weight
        return nn.Parameter(torch.randn(rows, columns, device=like.device, dtype=like.dtype) * 0.02)

    def vector(self, length: int, value: float) -> nn.Parameter:
        like = self.base_layer.weight
        return nn.Parameter(torch.full((length,), value, device=like.device, dtype=like.dtype))

    def update(self, x: Tensor) -> Tensor:
        """What is added to the frozen layer's output."""
        raise NotImplementedError  # each layer below is its update

    def penalties(self) -> Iterable[Tensor]:
        """Terms of the loss; their mean over the model is taken."""
        return ()

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.update(x)


class NaiveAFLora(NaiveLayer):
    """``b * (B (d * (A x)))``; all of A and B are scored."""

    scored = ("A", "B")

    def __init__(self, base: nn.Linear, r: int = 4) -> None:
        super().__init__(base)
        d_in, d_out = self.sizes
        self.A, self.d = self.matrix(r, d_in), self.vector(r, 0.1)
        self.B, self.b = self.matrix(d_out, r), self.vector(d_out, 0.0)

    def update(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.A) * self.d, self.B) * self.b


class NaiveAFLoraFrozen(NaiveAFLora):
    """The same with A and B frozen; nothing is left to score."""

    scored = ()

    def __init__(self, base: nn.Linear, r: int = 4) -> None:
        super().__init__(base, r)
        self.A.requires_grad_(False)
        self.B.requires_grad_(False)


class NaiveLora2(NaiveLayer):
    """The product of all factors, dense (d_in x d_out), applied to x. Elements of E, aa and B are scored."""

    scored = ("E", "aa", "B")

    def __init__(self, base: nn.Linear, r: int = 8, k: int = 8, alpha: float = 16.0) -> None:
        super().__init__(base)
        d_in, d_out = self.sizes
        self.A, self.B = self.matrix(k, d_in), self.matrix(r, k)
        self.E = self.vector(r, 0.0)
        self.aa, self.bb = self.matrix(k, r), self.matrix(d_out, k)
        self.scaling = alpha / (r + 1e-5)

    def update(self, x: Tensor) -> Tensor:
        delta = self.A.T @ self.B.T @ torch.diag(self.E) @ self.aa.T @ self.bb.T
        return x @ delta * self.scaling

    def penalties(self) -> Iterable[Tensor]:
        for gram in (self.A @ self.A.T, self.B.T @ self.B, self.aa @ self.aa.T, self.bb.T @ self.bb):
            yield torch.norm(gram - torch.eye(gram.shape[0], device=gram.device, dtype=gram.dtype))


class NaiveLoran(NaiveLayer):
    """``x f((B A)')`` with Sinter, ``f(m) = amplitude m sin(omega m) + m``, over the dense product."""

    def __init__(self, base: nn.Linear, r: int = 8, alpha: float = 16.0) -> None:
        super().__init__(base)
        d_in, d_out = self.sizes
        self.A, self.B = self.matrix(r, d_in), self.matrix(d_out, r)
        self.amplitude, self.omega, self.scaling = 5e-5, 1e4, alpha / r

    def update(self, x: Tensor) -> Tensor:
        m = (self.B @ self.A).T
        return x @ (self.amplitude * m * torch.sin(self.omega * m) + m) * self.scaling


class NaiveScores:
    """Sensitivity and its deviation, averaged over steps, one tensor after another."""

    def __init__(self, layers: Iterable[NaiveLayer], times_weight: bool) -> None:
        self.tensors = [getattr(layer, name) for layer in layers for name in layer.scored]
        self.times_weight = times_weight
        self.mean = [torch.zeros_like(tensor) for tensor in self.tensors]
        self.deviation = [torch.zeros_like(tensor) for tensor in self.tensors]

    @torch.no_grad()
    def observe(self, steps: int) -> None:
        for i, tensor in enumerate(self.tensors):
            signal = (tensor * tensor.grad if self.times_weight else tensor.grad).abs()
            self.mean[i] = 0.85 * self.mean[i] + 0.15 * signal
            self.deviation[i] = 0.95 * self.deviation[i] + 0.05 * (signal - self.mean[i]).abs()


def replace_layers(model: nn.Module, names: Iterable[str], make: Callable[[nn.Linear], NaiveLayer]) -> list[NaiveLayer]:
    """Puts naive layers in the place of linear ones."""
    layers: list[NaiveLayer] = []
    for name in names:
        parent, _, last = name.rpartition(".")
        base = model.get_submodule(name)
        assert isinstance(base, nn.Linear)
        layers.append(make(base))
        setattr(model.get_submodule(parent), last, layers[-1])
    return layers
