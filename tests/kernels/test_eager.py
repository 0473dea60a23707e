"""Layers on inputs so small that a node of our own costs more than it saves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernels.test_fused import LINEAR, adapted, trained
from peft import get_peft_model
from tiny import tiny_bert
from torch import Tensor, nn

import tapertune
from tapertune.benchmark.counts import graph_nodes
from tapertune.host import ChainLayer
from tapertune.kernels import Call
from tapertune.kernels.paths import is_small, most_elements

pytestmark = pytest.mark.filterwarnings("ignore:.*whose plan nobody runs:UserWarning")

SmallElements = Callable[[int], None]
ALL = 1 << 30


def graph(output: Tensor) -> set[str]:
    """Names of the nodes behind an output."""
    return {node.name() for node in graph_nodes(output.sum())}


def ours(output: Tensor) -> bool:
    return any("_LinearsWithChains" in name for name in graph(output))


def folds(output: Tensor) -> bool:
    return any("_MergedLinear" in name for name in graph(output))


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_same_training(
    name: str, dropout: float, small_elements: SmallElements, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for most in (0, ALL):
        small_elements(most)
        model = adapted(name, tiny_bert().double(), dropout=dropout).double().train()
        torch.manual_seed(5)
        runs.append(trained(model, monkeypatch, "fused"))
    assert runs[1] == pytest.approx(runs[0], abs=1e-10)


@pytest.mark.parametrize("name", LINEAR)
def test_autocast(name: str, small_elements: SmallElements, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for most in (0, ALL):
        small_elements(most)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            runs.append(trained(adapted(name, tiny_bert()), monkeypatch, "fused"))
    assert runs[1] == pytest.approx(runs[0], rel=0.03, abs=0.03)


@pytest.mark.parametrize("rows", [8, 1024], ids=["products in float32", "products in bfloat16"])
@pytest.mark.parametrize("name", LINEAR)
def test_an_adapter_in_float32_over_a_base_in_bfloat16(
    name: str, rows: int, small_elements: SmallElements, monkeypatch: pytest.MonkeyPatch
) -> None:
    def passed(kernel: str, dtype: torch.dtype) -> dict[str, Tensor]:
        monkeypatch.setenv("TAPERTUNE_KERNEL", kernel)
        torch.manual_seed(0)
        model = adapted(name, nn.Sequential(nn.Linear(96, 160)).bfloat16(), target_modules=["0"]).train()
        model = model.double() if dtype == torch.float64 else model
        x = torch.randn(rows, 96).bfloat16().to(dtype).requires_grad_()
        y: Tensor = model(x)
        assert y.dtype == dtype and not ours(y)
        y.backward(torch.randn(rows, 160).bfloat16().to(dtype))
        grads = {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}
        assert x.grad is not None
        return {"y": y.detach().double(), "x": x.grad.double(), **grads}

    exact = passed("reference", torch.float64)
    monkeypatch.setattr("tapertune.kernels.paths._MOST_HALF", ALL)
    monkeypatch.setattr("tapertune.kernels.paths._MOST", 1 << 15)
    for key, value in passed("fused", torch.bfloat16).items():
        assert (value - exact[key]).norm() < 0.01 * exact[key].norm(), key


def test_each_input_by_its_size(small_elements: SmallElements) -> None:
    """And no layer computes for others meanwhile."""
    small_elements(4 * 16)
    model = adapted("lora", tiny_bert(), target_modules=["query", "key", "value"])
    ids = torch.arange(8).view(1, 8)
    for length in (4, 5, 8, 3):
        logits = model(input_ids=ids[:, :length]).logits
        assert ours(logits) is (length > 4)
    layers = [m for m in model.modules() if isinstance(m, ChainLayer)]
    assert not any(layer.shared_input.apart for layer in layers)


def small(x: Tensor) -> bool:
    return is_small(Call.of(x), x.shape[-1])


def test_what_is_small(monkeypatch: pytest.MonkeyPatch, small_elements: SmallElements) -> None:
    monkeypatch.undo()
    single, half = most_elements("cpu", False), most_elements("cpu", True)
    assert 0 < single < half < most_elements("cuda", True)
    assert small(torch.empty(single)) and not small(torch.empty(single + 1))
    assert small(torch.empty(half, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert small(torch.empty(half)) and not small(torch.empty(half + 1))
    assert small(torch.empty(most_elements("meta", False), device="meta"))


@pytest.mark.parametrize(("name", "node"), [("elora", "_MergedLinear"), ("loran", "_LinearWithMap")])
def test_a_folded_update_stays_a_node(name: str, node: str, small_elements: SmallElements) -> None:
    small_elements(ALL)
    model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), tapertune.make_config(name, target_modules=["0"]))
    assert any(node in name for name in graph(model(torch.randn(512, 64))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_tokens_at_high_rank_go_factor_by_factor(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the input's size: to apply vectors to matrices of that rank is more work, and more to keep."""

    def passed(rows: int, kernel: str) -> dict[str, Tensor]:
        monkeypatch.setenv("TAPERTUNE_KERNEL", kernel)
        torch.manual_seed(0)
        base = nn.Sequential(nn.Linear(96, 160)).to(dtype)
        model: Any = adapted("elora", base, target_modules=["0"], r=128).train()
        x = torch.randn(rows, 96).to(dtype).requires_grad_()
        y = model(x)
        y.backward(torch.randn(rows, 160).to(dtype))
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert x.grad is not None and len(grads) == 2
        assert (ours(y) or folds(y)) is (kernel == "fused" and rows == 65)
        return {"y": y.detach(), "x": x.grad, **grads}

    for rows in (64, 65):
        expected = passed(rows, "lowrank")
        for key, value in passed(rows, "fused").items():
            assert (value - expected[key]).norm() < (0.02 if dtype == torch.bfloat16 else 1e-5) * value.norm(), key
