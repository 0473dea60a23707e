"""Derivatives of derivatives and ``torch.func``: the same as of the equations as they are written, at every size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, vmap

import tapertune
from tapertune.methods import METHODS

# torch compiles its own decompositions for forward mode
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

SIZES = pytest.mark.parametrize("rows", [8, 1024], ids=["small", "node"])


def adapted(method: str, frozen: tuple[str, ...] = (), **settings: Any) -> nn.Module:
    """Layers whose inputs come from a norm and an activation, and so are made again in backward."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 32))
    config = tapertune.make_config(method, target_modules=["0", "2", "4"], init_weights=False, **settings)
    model = get_peft_model(net, config).double()
    for name, parameter in model.named_parameters():
        if any(f"{method}_{factor}." in name for factor in frozen):
            parameter.requires_grad_(False)
    return model


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def hessian_vector(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Of a loss in the trained parameters and in the input, with a vector of ones."""
    inputs = [*trained(model).values(), x]
    loss = model(x).pow(2).mean()
    first = torch.autograd.grad(loss, inputs, create_graph=True)
    return list(torch.autograd.grad(sum(g.sum() for g in first), inputs))


CASES = [*((name, ()) for name in METHODS), ("aflora", ("A",)), ("aflora", ("A", "B")), ("lora", ("A",))]


@SIZES
@pytest.mark.parametrize(("method", "frozen"), CASES)
def test_second_derivatives(method: str, frozen: tuple[str, ...], rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(method, frozen)
    x = torch.randn(rows, 64, dtype=torch.float64, requires_grad=True)
    ours = hessian_vector(model, x)
    monkeypatch.setenv("TAPERTUNE_KERNEL", "reference")
    for one, expected in zip(ours, hessian_vector(model, x), strict=True):
        assert expected.norm() > 0
        torch.testing.assert_close(one, expected, rtol=1e-9, atol=1e-12)


@SIZES
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_each_example(method: str, rows: int) -> None:
    model = adapted(method)
    values = {name: p.detach() for name, p in trained(model).items()}
    x = torch.randn(2, rows, 64, dtype=torch.float64)

    def loss(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, values, (x,)).pow(2).mean()

    each = vmap(grad(loss), in_dims=(None, 0))(values, x)
    for i in range(2):
        expected = torch.autograd.grad(model(x[i]).pow(2).mean(), list(trained(model).values()))
        for name, one in zip(values, expected, strict=True):
            torch.testing.assert_close(each[name][i], one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_forward_mode(method: str) -> None:
    model = adapted(method)
    x, direction = torch.randn(2, 1024, 64, dtype=torch.float64)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(model(forward_ad.make_dual(x, direction))).tangent
    step = 1e-6
    with torch.no_grad():
        torch.testing.assert_close(
            tangent, (model(x + step * direction) - model(x - step * direction)) / (2 * step), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("method", METHODS)
def test_batched_gradients(method: str) -> None:
    """``is_grads_batched``, behind ``torch.autograd.functional.jacobian(vectorize=True)``."""
    model, x = adapted(method), torch.randn(1024, 64, dtype=torch.float64)
    inputs = list(trained(model).values())
    y = model(x)
    directions = torch.randn(3, *y.shape, dtype=torch.float64)
    batched = torch.autograd.grad(y, inputs, directions, is_grads_batched=True, retain_graph=True)
    for i, direction in enumerate(directions):
        for one, expected in zip(batched, torch.autograd.grad(y, inputs, direction, retain_graph=True), strict=True):
            torch.testing.assert_close(one[i], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_hessians_by_transforms(method: str) -> None:
    model = adapted(method)
    x = torch.randn(4, 64, dtype=torch.float64)
    vector = torch.randn(64, dtype=torch.float64)

    def loss(shift: Tensor) -> Tensor:
        return model(x + shift).pow(2).mean()

    assert torch.allclose(hessian(loss)(vector), jacfwd(grad(loss))(vector))


def test_dropout_under_a_transform_draws_for_each_example() -> None:
    model = adapted("lora", dropout=0.5).train()
    x = torch.ones(64, dtype=torch.float64).expand(2, 16, 64).contiguous()
    y = vmap(model, randomness="different")(x)
    assert not torch.allclose(y[0], y[1])
