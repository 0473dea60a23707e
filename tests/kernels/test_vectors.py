"""Frozen matrices folded into the base weight, against the low-rank form and the equations."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tapertune.kernels.forms import Form
from tapertune.kernels.vectors import merged_vectors, two_matrices
from tapertune.methods import METHODS, Chain, Diagonal, Matrix

FORMS = [Form(wide=w, keep=k, apart=a) for w, k, a in itertools.product((False, True), repeat=3)]
SIZES = {"r": 3, "d_in": 6, "d_out": 5}


def drawn(chain: Chain, trains: tuple[str, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_(name in trains)
        for name, shape in chain.shapes({**SIZES, METHODS["adalora"].rank: 3}).items()
    }


def layer() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, weight, bias = (torch.randn(*s, dtype=torch.float64, generator=generator) for s in ((2, 4, 6), (5, 6), (5,)))
    return x.requires_grad_(), weight, bias


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "trains"), [("elora", ("d", "b")), ("elora", ("d",)), ("elora", ("b",)), ("adalora", ("E",))]
)
def test_values_and_gradients(name: str, trains: tuple[str, ...], form: Form) -> None:
    chain = METHODS[name].chain(METHODS[name].settings())
    tensors = drawn(chain, trains)
    x, weight, bias = layer()
    factors = two_matrices(chain, tensors)
    assert factors is not None
    live = (x, *(tensors[name] for name in trains))
    for c in (bias, None):
        expected = nn.functional.linear(x, weight, c) + 1.5 * chain.apply(x, tensors)
        torch.testing.assert_close(merged_vectors(x, weight, c, factors, 1.5, form), expected)

    def node(*_: Tensor) -> Tensor:
        return merged_vectors(x, weight, bias, factors, 1.5, form)

    assert torch.autograd.gradcheck(node, live)
    (node() * node()).sum().backward(retain_graph=True)
    frozen = x.detach()
    alone = merged_vectors(frozen, weight, bias, factors, 1.5, form)
    vectors = live[1:]
    expected_grads = torch.autograd.grad(chain.apply(frozen, tensors).sum() * 1.5, vectors)
    for mine, its in zip(torch.autograd.grad(alone.sum(), vectors), expected_grads, strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_kept(form: Form) -> None:
    chain = METHODS["elora"].chain(METHODS["elora"].settings())
    tensors = drawn(chain, ("d", "b"))
    x, weight, bias = layer()
    factors = two_matrices(chain, tensors)
    assert factors is not None
    known = {t.data_ptr() for t in (weight, *tensors.values())}
    kept: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        kept.extend([t] if t.data_ptr() not in known else [])
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        merged_vectors(x, weight, bias, factors, 1.5, form)
    assert sum(t.nbytes for t in kept) == 8 * (8 * (6 if form.wide else 3) + 5 * (6 if form.keep else 3))


def test_which_chains_are_two_frozen_matrices() -> None:
    def found(*factors: Any, trains: tuple[str, ...] = ("d", "b", "c")) -> bool:
        chain = Chain(*factors)
        return two_matrices(chain, drawn(chain, trains)) is not None

    a, b = Matrix("A", "d_in", "r", nn.init.zeros_), Matrix("B", "r", "d_out", nn.init.zeros_)
    d, c = (Diagonal(name, "r", nn.init.zeros_) for name in ("d", "c"))
    v = Diagonal("b", "d_out", nn.init.zeros_)
    assert found(a, d, b, v) and found(a, b, v) and found(a, d, b) and found(a, b)
    assert not found(a, d, b, v, trains=("A",)) and not found(a, d, b, v, trains=("B",))
    assert not found(a, d, c, b)
    assert not found(a, Matrix("M", "r", "r", nn.init.zeros_), b)
    assert not found(Diagonal("c", "d_in", nn.init.zeros_), a, b)
    for name in ("lora2", "loran"):
        chain = METHODS[name].chain(METHODS[name].settings())
        sizes = {**vars(METHODS[name].settings()), **chain.widths, "d_in": 6, "d_out": 5}
        assert two_matrices(chain, {n: torch.zeros(s) for n, s in chain.shapes(sizes).items()}) is None


@pytest.mark.parametrize("wide", [False, True])
def test_a_small_update_survives_half_precision(wide: bool) -> None:
    """Factors in float32 beside a bfloat16 layer whose own output is zero, so that the update's can be seen."""
    chain = METHODS["elora"].chain(METHODS["elora"].settings())
    shapes = chain.shapes({"r": 64, "d_in": 48, "d_out": 80})
    generator = torch.Generator().manual_seed(0)
    tensors = {n: torch.randn(*s, generator=generator) for n, s in shapes.items()}
    live = [tensors[name].mul_(0.01).requires_grad_() for name in ("d", "b")]
    half, weight = (torch.randn(*s, generator=generator).bfloat16() for s in ((32, 24), (80, 24)))
    x, weight = torch.cat([half, half], 1).requires_grad_(), torch.cat([weight, -weight], 1)
    factors = two_matrices(chain, tensors)
    assert factors is not None
    exact = {n: t.detach().double().requires_grad_(t.requires_grad) for n, t in tensors.items()}
    its = 1.5 * chain.apply(x.detach().double(), exact)
    wanted = torch.autograd.grad(its.sum(), [exact[name] for name in ("d", "b")])

    def off(mine: Tensor, expected: Tensor) -> float:
        return ((mine.double() - expected).norm() / expected.norm()).item()

    for keep in (False, True):
        y = merged_vectors(x, weight, None, factors, 1.5, Form(wide=wide, keep=keep, apart=True))
        assert off(y, its) < 0.01
        _, *grads = torch.autograd.grad(y.sum(), [x, *live])
        for mine, expected in zip(grads, wanted, strict=True):
            assert mine.dtype == torch.float32 and off(mine, expected) < 0.01
    summed = merged_vectors(x, weight, None, factors, 1.5, Form(wide=wide, keep=True))
    assert off(summed, its) > 0.5  # most of the update is rounded away
