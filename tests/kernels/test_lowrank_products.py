"""Compiled products against torch's: values, layouts, threads, what is made again on the way, where they step aside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from versions import rebuilds

from tapertune.kernels import lowrank_products
from tapertune.kernels.lowrank_products import Factor, products
from tapertune.kernels.native import library, why_not
from tapertune.kernels.recompute import Recomputed, rematerialiser

pytestmark = pytest.mark.skipif(library() is None, reason=f"no compiled products: {why_not()}")

# n, w, r: whole tiles; none; one of everything; columns and ranks past the last tile; several chunks of columns
SHAPES = [(64, 128, 8), (3, 7, 2), (1, 1, 1), (37, 150, 5), (70, 1600, 12), (33, 64, 32)]


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowrank_products, "_LEAST_ELEMENTS", 0)


@pytest.fixture(params=[1, 2], ids=["one thread", "two"], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


class Draw:
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.generator = dtype, torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=self.dtype, generator=self.generator)

    def mask(self, *shape: int) -> Tensor:
        return torch.randint(0, 2, shape, generator=self.generator, dtype=torch.uint8)


def pair(x: Tensor, *matrices: Tensor) -> tuple[Any, Any]:
    """The compiled products, and torch's."""
    compiled = products(x, *matrices)
    assert isinstance(compiled, lowrank_products._Native)
    return compiled, lowrank_products._TORCH


def same(left: Tensor, right: Tensor) -> None:
    tight = left.dtype == torch.float64
    torch.testing.assert_close(left, right, rtol=1e-11 if tight else 1e-4, atol=1e-11 if tight else 2e-4)


@pytest.mark.parametrize("n, w, r", SHAPES)
def test_each_product_is_torchs(n: int, w: int, r: int, dtype: torch.dtype) -> None:
    draw = Draw(dtype)
    x, down, up, middle, z = draw(n, w), draw(r, w), draw(w, r), draw(r), draw(n, r)
    mask, weight, bias = draw.mask(n, w), draw(w, w), draw(w)
    native, reference = pair(x, down)
    for m in (None, mask):
        same(native.project(x, m, down), reference.project(x, m, down))
        same(native.weight_grad(z, x, m), reference.weight_grad(z, x, m))
        same(native.expand(z, Factor(down), mask=m), reference.expand(z, Factor(down), mask=m))
    for factor in (Factor(down), Factor(up.T), Factor(up.T, middle, -1.5)):
        same(native.expand(z, factor), reference.expand(z, factor))
        for c in (None, bias):
            same(
                native.linear_plus_lowrank(z, factor, x, weight, c),
                reference.linear_plus_lowrank(z, factor, x, weight, c),
            )
        made: list[list[Tensor]] = []
        for form in (native, reference):
            u = draw.generator.manual_seed(1) and torch.full_like(z, 7.0)
            seen = form.input_and_factor_grads(x, factor, u, z)
            made.append([u, seen, form.input_and_factor_grads(x, factor, None, z)])
            alone = torch.full_like(z, 7.0)
            assert form.input_and_factor_grads(x, factor, alone, None) is None
            same(alone, u)
        for one, other in zip(*made, strict=True):
            same(one, other)


def test_layouts_other_than_row_by_row(dtype: torch.dtype) -> None:
    """Columns of a wider tensor, gradients that one number was expanded to, transposed matrices."""
    draw = Draw(dtype)
    x, down, both = draw(40, 96), draw(96, 6).T, draw(40, 12)
    z = both[:, 6:]
    native, reference = pair(x, down)
    same(native.project(x, None, down), reference.project(x, None, down))
    same(native.expand(z, Factor(down)), reference.expand(z, Factor(down)))
    for dy in (draw(1, 1).expand(40, 96), draw(96, 40).T):
        left, right = torch.zeros_like(both), torch.zeros_like(both)
        same(
            native.input_and_factor_grads(dy, Factor(down), left[:, :6], z),
            reference.input_and_factor_grads(dy, Factor(down), right[:, :6], z),
        )
        same(left, right)
    transposed = draw(6, 40).T
    same(native.expand(transposed, Factor(down)), reference.expand(transposed, Factor(down)))


def test_ranks_and_rows_that_are_none(dtype: torch.dtype) -> None:
    draw = Draw(dtype)
    x, none = draw(5, 8), draw(0, 8)
    native, _ = pair(x, none)
    z = native.project(x, None, none)
    assert z.shape == (5, 0)
    same(native.expand(z, Factor(none)), torch.zeros_like(x))
    assert native.weight_grad(z, x, None).shape == (0, 8)
    empty, down = draw(0, 8), draw(3, 8)
    assert native.project(empty, None, down).shape == (0, 3)
    same(native.weight_grad(draw(0, 3), empty, None), torch.zeros_like(down))


@rebuilds
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "made",
    [
        nn.LayerNorm(150),
        nn.LayerNorm(150, elementwise_affine=False),
        nn.LayerNorm((37, 150)),
        nn.GELU(),
        nn.GELU(approximate="tanh"),
        nn.SiLU(),
    ],
    ids=str,
)
def test_an_input_that_is_made_again(made: nn.Module, masked: bool, dtype: torch.dtype) -> None:
    draw = Draw(dtype)
    made = made.to(dtype)
    for parameter in made.parameters():
        nn.init.normal_(parameter.detach(), generator=draw.generator)
    y = made(3 * draw(2, 37, 150).requires_grad_())
    rebuild = rematerialiser(y)
    assert rebuild is not None
    u, mask = draw(74, 5), draw.mask(2, 37, 150) if masked else None
    native, reference = pair(u, u.T)
    expected = reference.weight_grad(u, y.detach().view(74, 150), mask)
    same(native.weight_grad(u, Recomputed(rebuild, y.grad_fn), mask), expected)
    same(reference.weight_grad(u, Recomputed(rebuild, y.grad_fn), mask), expected)


@rebuilds
def test_gelu_over_its_whole_range() -> None:
    x = torch.cat([torch.linspace(-12, 12, 24001), torch.tensor([-1e30, 1e30, 0.0, 1e-30])]).requires_grad_()
    y = nn.functional.gelu(x.view(1, -1))
    rebuild = rematerialiser(y)
    assert rebuild is not None
    one = torch.ones(1, 1)
    native, _ = pair(one, one)
    again = native.weight_grad(one, Recomputed(rebuild, y.grad_fn), None)
    exact = nn.functional.gelu(x.detach().double()).float().view(1, -1)
    torch.testing.assert_close(again, exact, rtol=5e-7, atol=5e-6)
    away = x.detach().abs() < 3
    torch.testing.assert_close(again[:, away], exact[:, away], rtol=0, atol=1e-6)


def test_what_is_not_a_number_stays_so() -> None:
    x, down = torch.ones(40, 96), torch.ones(8, 96)
    x[7, 3] = torch.nan
    native, _ = pair(x, down)
    assert native.project(x, None, down).isnan().any(1).nonzero().tolist() == [[7]]
    seen = native.weight_grad(torch.ones(40, 8), x, None)
    assert seen.isnan().any(0).nonzero().tolist() == [[3]]


def test_where_torchs_products_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    x, down = torch.randn(4, 8), torch.randn(2, 8)

    def compiled(x: Tensor = x, down: Tensor = down) -> bool:
        return isinstance(products(x, down), lowrank_products._Native)

    assert compiled()
    with FlopCounterMode(display=False) as counter:
        assert not compiled()
        products(x, down).project(x, None, down)
    assert counter.get_total_flops() == 2 * 4 * 8 * 2
    assert not compiled(x.bfloat16(), down.bfloat16())
    assert not compiled(x, down.double())
    assert not compiled(x.T.contiguous().T)
    assert not compiled(x.to("meta"), down.to("meta"))
    assert not compiled(x, torch.randn(lowrank_products._MOST_RANK + 1, 8))
    assert compiled(x, torch.randn(lowrank_products._MOST_RANK, 8))
    monkeypatch.setattr(lowrank_products, "_LEAST_ELEMENTS", 33)
    assert not compiled() and compiled(torch.randn(5, 8))
    monkeypatch.setattr(lowrank_products, "_LEAST_ELEMENTS", 0)
    monkeypatch.setenv("TAPERTUNE_KERNEL", "fused")
    assert not compiled()
    monkeypatch.setenv("TAPERTUNE_KERNEL", "native")
    assert compiled()
