"""The fused node against the folded form and the equations: values, gradients, what is kept, where it steps aside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import batch, checkpoint, mlp, tiny_bert
from torch import nn

import tapertune
from tapertune.host import ChainLayer
from tapertune.kernels import lowrank_products
from tapertune.kernels.fused import Part, fused, fused_parts
from tapertune.kernels.native import library
from tapertune.kernels.update_flops import flops_per_token
from tapertune.methods import METHODS

# kernels are compared without anything that decides
pytestmark = pytest.mark.filterwarnings("ignore:.*whose plan nobody runs:UserWarning")

# what the default stands for where there is no compiler is held against the equations all the same
ONE_NODE = ["native", "fused"] if library() else ["fused"]
LINEAR = [name for name, row in METHODS.items() if row.chain(row.settings()).linear]


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled products in models as small as these, too."""
    monkeypatch.setattr(lowrank_products, "_LEAST_ELEMENTS", 0)


def adapted(name: str, base: nn.Module, **values: Any) -> Any:
    torch.manual_seed(1)
    values = {METHODS[name].rank: 3, "init_weights": False, **values}
    return get_peft_model(base, tapertune.make_config(name, **values))


def trained(model: nn.Module, patch: pytest.MonkeyPatch, kernel: str, steps: int = 4, **forward: Any) -> list[float]:
    patch.setenv("TAPERTUNE_KERNEL", kernel)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for t in range(steps):
        optimizer.zero_grad()
        loss = model(**batch(seed=t), **forward).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", LINEAR)
def test_values_and_gradients_in_float64(name: str, bias: bool) -> None:
    row = METHODS[name]
    settings = row.settings(**{row.rank: 3})
    chain = row.chain(settings)
    sizes = {**vars(settings), **chain.widths, "d_in": 6, "d_out": 5}
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    tensors = {n: draw(*s).requires_grad_() for n, s in chain.shapes(sizes).items()}
    x, weight, offset = draw(2, 4, 6).requires_grad_(), draw(5, 6), draw(5) if bias else None
    expected = nn.functional.linear(x, weight, offset) + 1.5 * chain.apply(x, tensors)
    torch.testing.assert_close(fused(chain, x, weight, offset, tensors, 1.5), expected)
    inputs = (x, *tensors.values())
    assert torch.autograd.gradcheck(lambda x, *_: fused(chain, x, weight, offset, tensors, 1.5), inputs)


@pytest.mark.parametrize("name", LINEAR)
def test_the_same_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {
        kernel: trained(adapted(name, tiny_bert().double()).double(), monkeypatch, kernel)
        for kernel in (*ONE_NODE, "lowrank", "reference")
    }
    for losses in runs.values():
        assert losses == pytest.approx(runs["reference"], abs=1e-10)


@pytest.mark.parametrize("name", LINEAR)
def test_the_same_training_under_dropout(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel draws the same masks, one for layers that read the same input."""

    def losses(kernel: str) -> list[float]:
        model = adapted(name, tiny_bert().double(), dropout=0.3).double().train()
        torch.manual_seed(5)
        return trained(model, monkeypatch, kernel)

    expected = losses("reference")
    for kernel in (*ONE_NODE, "lowrank"):
        assert losses(kernel) == pytest.approx(expected, abs=1e-10)
    assert losses("reference") == expected
    assert trained(adapted(name, tiny_bert().double()).double(), monkeypatch, "fused") != pytest.approx(expected)


@pytest.mark.parametrize("name", LINEAR)
def test_autocast_and_checkpointing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {}
    for kernel in (*ONE_NODE, "lowrank"):
        model = adapted(name, tiny_bert())
        checkpoint(model, reentrant=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            runs[kernel] = trained(model, monkeypatch, kernel)
    for losses in runs.values():
        assert losses == pytest.approx(runs["lowrank"], rel=0.03, abs=0.03)


def called(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    from tapertune.host import shared_input

    calls: list[int] = []

    def count(*args: Any) -> Any:
        calls.append(1)
        return run_fused(*args)

    run_fused = shared_input.run_fused
    monkeypatch.setattr(shared_input, "run_fused", count)
    return calls


def test_it_is_what_runs_and_where_it_steps_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = called(monkeypatch)
    x = torch.randn(3, 6)

    def fuses(model: Any) -> bool:
        calls.clear()
        model(x)
        return bool(calls)

    def fresh(**values: Any) -> Any:
        return adapted("lora", mlp(), target_modules=["0", "2"], **values)

    assert fuses(fresh())
    assert fuses(fresh(dropout=0.5).eval()) and fuses(fresh(dropout=0.5).train())
    two = fresh()
    two.add_adapter("other", tapertune.make_config("lora", r=2, target_modules=["0", "2"]))
    two.base_model.set_adapter(["default", "other"])
    assert not fuses(two)
    hooked = fresh()
    layers = [m for m in hooked.modules() if isinstance(m, ChainLayer)]
    for layer in layers:
        layer.base_layer.register_forward_hook(lambda module, args, output: output)
    assert not fuses(hooked)
    open_base = fresh()
    for layer in (m for m in open_base.modules() if isinstance(m, ChainLayer)):
        layer.base_layer.bias.requires_grad_(True)
    assert not fuses(open_base)
    merged = fresh()
    merged.merge_adapter()
    assert not fuses(merged)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(
    "name", [name if name in ("aflora", "loran") else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)  # seconds each
def test_a_compiled_model_is_the_same(name: str) -> None:
    """And one graph, without a break."""
    torch.compiler.reset()
    model = adapted(name, tiny_bert()).train()
    plain = model(**batch()).loss
    plain.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    loss = compiled(**batch()).loss
    loss.backward()
    torch.testing.assert_close(loss, plain)
    for parameter, param in model.named_parameters():
        if parameter in grads:
            torch.testing.assert_close(param.grad, grads[parameter], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", METHODS)
def test_compiling_with_dropout_and_in_half_precision(name: str) -> None:
    torch.compiler.reset()
    model = adapted(name, mlp().bfloat16(), dropout=0.5, target_modules=["0", "2"]).train()
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(16, 6).bfloat16()
    grads = []
    for _ in range(2):
        model.zero_grad()
        compiled(x).square().sum().backward()
        found = [p.grad for p in model.parameters() if p.grad is not None]
        grads.append(torch.cat([grad.flatten() for grad in found]))
    assert grads[0].dtype == torch.float32 and not torch.equal(*grads), "another mask each time"
    model.eval()
    torch.testing.assert_close(compiled(x), model(x), atol=0.05, rtol=0.05)


def test_gradients_of_several_layers_under_a_mask() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, train: bool = True) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_(train)

    x, mask = draw(2, 4, 6), torch.randint(0, 2, (2, 4, 6), generator=generator, dtype=torch.uint8)
    widths = (5, 7, 3)
    base = [(draw(n, 6, train=False), draw(n, train=False) if n > 3 else None) for n in widths]
    factors = [(draw(2, 6), draw(2) if n != 7 else None, draw(n, 2)) for n in widths]
    flat = [t for group in factors for t in group if t is not None]

    def node(*_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = [Part(*b, *f, 1.5) for b, f in zip(base, factors, strict=True)]
        return fused_parts(x, parts, mask, 2.0)

    for (weight, bias), (down, middle, up), y in zip(base, factors, node(), strict=True):
        z = (x * mask) @ down.T
        expected = nn.functional.linear(x, weight, bias) + 3.0 * (z if middle is None else z * middle) @ up.T
        torch.testing.assert_close(y, expected)
    assert torch.autograd.gradcheck(node, (x, *flat))
    # an output that nobody uses
    node()[1].sum().backward()
    alone = [t.grad for t in (x, *factors[1]) if t is not None]
    assert factors[0][0].grad is None or not factors[0][0].grad.any()
    assert all(g is not None and g.any() for g in alone)


def test_an_input_without_gradient_costs_no_product_with_the_base() -> None:
    """The lowest layer of a model: nothing below wants a gradient."""
    from torch.utils.flop_counter import FlopCounterMode

    chain = METHODS["lora"].chain(METHODS["lora"].settings())
    weight = torch.randn(32, 16)
    tensors = {"A": torch.randn(4, 16, requires_grad=True), "B": torch.randn(32, 4, requires_grad=True)}
    with FlopCounterMode(display=False) as counter:
        fused(chain, torch.randn(10, 16), weight, None, tensors, 1.0).sum().backward()
    flops = flops_per_token(chain, {"d_in": 16, "d_out": 32, "r": 4}, input_grad=False, way="kernel")
    assert counter.get_total_flops() == 10 * (flops.total + 2 * 16 * 32)


def test_vectors_and_inputs_with_gaps_between_their_elements() -> None:
    chain = METHODS["adalora"].chain(METHODS["adalora"].settings())
    generator = torch.Generator().manual_seed(0)
    wide = {
        n: torch.randn(*s, 2, generator=generator)
        for n, s in chain.shapes({"d_in": 6, "d_out": 5, "init_r": 3}).items()
    }
    tensors = {name: tensor[..., 0] for name, tensor in wide.items()}
    x, weight, bias = torch.randn(4, 6, 2), torch.randn(5, 6), torch.randn(5, 2)[:, 0]
    for inputs in (x[..., 0], x[..., 0].contiguous(), x[..., 0].T.contiguous().T):
        expected = nn.functional.linear(inputs, weight, bias) + chain.apply(inputs, tensors)
        torch.testing.assert_close(fused(chain, inputs, weight, bias, tensors, 1.0), expected)
