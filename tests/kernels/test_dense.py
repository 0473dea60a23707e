"""One node for base layer and mapped update against the equations: values, gradients, what is kept."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import batch, checkpoint, mlp, tiny_bert
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import tapertune
from tapertune.kernels.dense import dense
from tapertune.kernels.maps import update_vjp
from tapertune.kernels.native import library
from tapertune.kernels.sinter import CompiledSinter, compiled_sinter
from tapertune.kernels.update_flops import flops_per_pass, flops_per_token, saved_bytes_per_token
from tapertune.methods import METHODS
from tapertune.methods.loran import ACTIVATIONS
from tapertune.methods.mapped import Map, MappedChain

ROW = METHODS["loran"]
ONE_NODE = ["native", "fused"] if library() else ["fused"]
FORMS: list[dict[str, Any]] = [{}, {"offsets": True}, {"p_sizes": [5]}, {"p_sizes": [5, 4], "offsets": True}]


def chain_of(**values: Any) -> MappedChain:
    chain = ROW.chain(ROW.settings(**{"r": 3, "amplitude": 0.3, "omega": 2.0, **values}))
    assert isinstance(chain, MappedChain)
    return chain


def drawn(chain: MappedChain, d_in: int = 6, d_out: int = 7, dtype: torch.dtype = torch.float64) -> tuple[Any, ...]:
    """x, weight, bias and factors."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=generator)

    sizes = {**chain.widths, "r": 3, "d_in": d_in, "d_out": d_out}
    tensors = {n: draw(*s).requires_grad_() for n, s in chain.shapes(sizes).items()}
    return draw(2, 4, d_in).requires_grad_(), draw(d_out, d_in), draw(d_out), tensors


def reference(chain: MappedChain, x: Tensor, weight: Tensor, bias: Tensor | None, tensors: Any, s: float) -> Tensor:
    return nn.functional.linear(x, weight, bias) + chain.apply(x, tensors) * s


def adapted(base: nn.Module, **values: Any) -> Any:
    torch.manual_seed(1)
    config = tapertune.make_config(
        "loran", **{"r": 3, "init_weights": False, "omega": 10.0, "amplitude": 0.3, **values}
    )
    return get_peft_model(base, config)


def trained(model: Any, patch: pytest.MonkeyPatch, kernel: str, accumulated: int = 1, lr: float = 0.05) -> list[float]:
    patch.setenv("TAPERTUNE_KERNEL", kernel)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for t in range(4):
        optimizer.zero_grad()
        for i in range(accumulated):
            loss = model(**batch(seed=t + i)).loss
            loss.backward()
        optimizer.step()
        losses.append(loss.item())  # pyright: ignore[reportPossiblyUnboundVariable]
    return losses


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_values_and_gradients(activation: str, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapertune.kernels.dense._BLOCK", 3 * 6)  # 7 rows: two blocks and a rest
    chain = chain_of(activation=activation, **form)
    x, weight, bias, tensors = drawn(chain)
    for c in (bias, None):
        torch.testing.assert_close(
            dense(chain, x, weight, c, tensors, 1.5), reference(chain, x, weight, c, tensors, 1.5)
        )
    if activation != "cos":  # too steep for differences; its gradients are compared below
        assert torch.autograd.gradcheck(lambda *_: dense(chain, x, weight, bias, tensors, 1.5), (x, *tensors.values()))
    dy = torch.randn(2, 4, 7, dtype=torch.float64)
    inputs = (x, *tensors.values())
    grads = [torch.autograd.grad(f(chain, x, weight, bias, tensors, 1.5), inputs, dy) for f in (dense, reference)]
    for mine, its in zip(*grads, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_any_part_may_be_frozen(form: dict[str, Any]) -> None:
    chain = chain_of(**form)
    x, weight, bias, tensors = drawn(chain)
    dy = torch.randn(2, 4, 7, dtype=torch.float64)
    for trains in itertools.product((True, False), repeat=1 + len(tensors)):
        inputs = [t.requires_grad_(train) for t, train in zip((x, *tensors.values()), trains, strict=True)]
        live = [t for t in inputs if t.requires_grad]
        y = dense(chain, x, weight, bias, tensors, 1.5)
        assert y.requires_grad == bool(live)
        if live:
            expected = torch.autograd.grad(reference(chain, x, weight, bias, tensors, 1.5), live, dy)
            for mine, its in zip(torch.autograd.grad(y, live, dy), expected, strict=True):
                torch.testing.assert_close(mine, its)


def test_a_map_without_a_closed_form() -> None:
    cube = Map(lambda m: m * m * m)
    given = chain_of()
    chain = MappedChain(given.parts[0], (), cube, {})
    x, weight, bias, tensors = drawn(chain)
    assert torch.autograd.gradcheck(lambda *_: dense(chain, x, weight, bias, tensors, 1.5), (x, *tensors.values()))


@pytest.mark.parametrize("form", [{}, {"p_sizes": [5, 4], "offsets": True}])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_same_training(activation: str, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"activation": activation, **form}
    runs = {
        # cos has slopes up to 10,000, so that longer steps go astray
        kernel: trained(
            adapted(tiny_bert().double(), **values).double(),
            monkeypatch,
            kernel,
            lr=1e-12 if activation == "cos" else 0.05,
        )
        for kernel in (*ONE_NODE, "reference")
    }
    for losses in runs.values():
        assert losses == pytest.approx(runs["reference"], abs=1e-10)
        assert losses[0] != losses[-1]


def test_accumulated_gradients_checkpointing_and_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    def model() -> Any:
        return adapted(tiny_bert().double()).double()

    expected = trained(model(), monkeypatch, "reference", accumulated=3)
    assert trained(model(), monkeypatch, "fused", accumulated=3) == pytest.approx(expected, abs=1e-10)
    for reentrant in (True, False):
        checkpointed = model()
        checkpointed.enable_input_require_grads()
        checkpoint(checkpointed, reentrant=reentrant)
        checkpointed.train()
        assert trained(checkpointed, monkeypatch, "fused", accumulated=3) == pytest.approx(expected, abs=1e-10)
    trainee = model()
    trained(trainee, monkeypatch, "fused")
    with torch.no_grad():
        evaluated = trainee.eval()(**batch()).logits
        monkeypatch.setenv("TAPERTUNE_KERNEL", "reference")
        torch.testing.assert_close(evaluated, trainee(**batch()).logits)
    with torch.inference_mode():
        monkeypatch.setenv("TAPERTUNE_KERNEL", "fused")
        torch.testing.assert_close(trainee(**batch()).logits, evaluated)
    torch.testing.assert_close(copy.deepcopy(trainee)(**batch()).logits, evaluated)


def test_two_forwards_before_one_backward_and_a_graph_used_twice() -> None:
    chain = chain_of()
    x, weight, bias, tensors = drawn(chain)
    inputs = (x, *tensors.values())

    def both(f: Any) -> Tensor:
        return (f(chain, x, weight, bias, tensors, 1.5) * f(chain, 2 * x, weight, None, tensors, 0.5)).sum()

    loss = both(dense)
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    second = torch.autograd.grad(loss, inputs)
    for a, b, c in zip(first, second, torch.autograd.grad(both(reference), inputs), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)
    y = dense(chain, x, weight, bias, tensors, 1.5)
    with torch.no_grad():
        tensors["A"].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_half_precision_keeps_a_small_update_beside_a_large_weight() -> None:
    """Summed in bfloat16, an update of a thousandth of the weight would vanish."""
    chain = chain_of(amplitude=5e-5, omega=1e4)
    x, weight, bias, tensors = drawn(chain, 32, 16, torch.float32)
    tensors = {n: (t.detach() / 30).requires_grad_() for n, t in tensors.items()}
    low = dense(chain, x.bfloat16(), weight.bfloat16(), bias.bfloat16(), tensors, 1.0)
    base = nn.functional.linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    exact = chain.apply(x, tensors)
    assert low.dtype == torch.bfloat16
    assert (low.float() - base.float() - exact).norm() < 0.1 * base.float().norm() * 2**-5
    summed = (weight + chain.delta_weight(tensors)).bfloat16()
    assert summed.ne(weight.bfloat16()).float().mean() < 0.9  # many entries do not move at all
    low.float().sum().backward()
    mine = {n: t.grad.clone() for n, t in tensors.items()}
    for t in tensors.values():
        t.grad = None
    reference(chain, x.detach(), weight, bias, tensors, 1.0).sum().backward()
    for name, t in tensors.items():
        assert t.grad is not None and mine[name].dtype == torch.float32
        assert (mine[name] - t.grad).norm() < 0.03 * t.grad.norm(), name


def test_autocast_and_a_model_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {}
    for kernel in ("fused", "reference"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            runs[kernel] = trained(adapted(tiny_bert()), monkeypatch, kernel)
        half = adapted(tiny_bert().bfloat16())
        runs[kernel] += trained(half, monkeypatch, kernel)
    assert runs["fused"] == pytest.approx(runs["reference"], rel=0.03, abs=0.03)


def test_it_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 6, requires_grad=True)

    def node(**values: Any) -> str:
        y = adapted(mlp(), target_modules=["2"], **values)(x)
        return type(y.grad_fn).__name__

    assert node() == "_LinearWithMapBackward"
    assert node(dropout=0.5) != "_LinearWithMapBackward"
    monkeypatch.setenv("TAPERTUNE_KERNEL", "reference")
    assert node() != "_LinearWithMapBackward"


@pytest.mark.parametrize(
    ("form", "trains"),
    [
        ({}, ("A", "B")),
        ({}, ("B",)),
        ({}, ()),
        (FORMS[3], ("A", "B", "P1", "P2", "b1", "b2")),
        (FORMS[3], ("P1", "b2")),
        (FORMS[3], ("P2", "b1")),
    ],
)
@pytest.mark.parametrize("input_grad", [True, False])
def test_operations_and_what_is_kept(form: dict[str, Any], trains: tuple[str, ...], input_grad: bool) -> None:
    chain, tokens = chain_of(**form), 40
    sizes = {"d_in": 16, "d_out": 32, "r": 3, **chain.widths}
    weight = torch.randn(32, 16)
    tensors = {n: torch.randn(*s, requires_grad=n in trains) for n, s in chain.shapes(sizes).items()}
    x = torch.randn(tokens, 16, requires_grad=input_grad)
    kept: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        if not any(t.data_ptr() == known.data_ptr() for known in (weight, *tensors.values())):
            kept.append(t)
        return t

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            y = dense(chain, x, weight, None, tensors, 1.0)
        if y.requires_grad:
            y.sum().backward()
    flops = flops_per_token(chain, sizes, trains, input_grad=input_grad, way="kernel")
    base = 2 * 16 * 32 * (1 + input_grad)
    step = flops_per_pass(chain, sizes, trains, input_grad=input_grad, way="kernel")
    assert counter.get_total_flops() == tokens * (flops.total + base) + step.total
    assert sum(t.nbytes for t in kept) == tokens * saved_bytes_per_token(chain, sizes, trains)


@pytest.mark.skipif(library() is None, reason="no compiled code")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d_in", "d_out"), [(64, 40), (150, 37), (7, 3), (300, 300)])
def test_the_compiled_sum_and_its_gradients(d_in: int, d_out: int, dtype: torch.dtype, threads: int) -> None:
    chain = chain_of(amplitude=0.2, omega=8.0)
    _, weight, _, tensors = drawn(chain, d_in, d_out, dtype)
    tensors = {name: tensor.detach() for name, tensor in tensors.items()}
    grad = torch.randn(d_out, d_in, dtype=dtype)
    near = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 2e-3}
    expected = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    delta = update_vjp(chain, tensors, grad.clone(), expected, 1.5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = compiled_sinter(chain, weight, tensors)
        assert isinstance(made, CompiledSinter)
        total = torch.empty_like(weight)
        made.put(weight, 1.5, total)
        torch.testing.assert_close(total, weight + 1.5 * delta, **near)
        for wanted in (("B", "A"), ("B",), ("A",), ()):
            into = {name: torch.zeros_like(tensors[name]) for name in wanted}
            total.zero_()
            made.put(weight, 1.5, total, grad.clone(), into)
            torch.testing.assert_close(total, weight + 1.5 * delta, **near)
            for name in wanted:
                torch.testing.assert_close(into[name], expected[name], **near)
        into = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        made.put(weight, 1.5, None, grad.clone(), into)
        torch.testing.assert_close(into, expected, **near)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(library() is None, reason="no compiled code")
def test_the_compiled_sine_near_and_far() -> None:
    """Of angles up to where float32 has a step of a whole turn, and what is no angle."""
    angles = torch.cat([torch.linspace(-200, 200, 40001), torch.logspace(2, 9, 4001), -torch.logspace(2, 9, 4001)])
    angles = torch.cat([angles, torch.tensor([0.0, 1e38, -1e38, float("inf"), float("nan")])])
    chain = chain_of(r=1, amplitude=1.0, omega=1.0)
    tensors = {"B": torch.ones(1, 1), "A": angles.view(1, -1)}
    made = compiled_sinter(chain, torch.zeros(1, len(angles)), tensors)
    assert made is not None
    total, grad = torch.empty(1, len(angles)), torch.ones(1, len(angles))
    made.put(torch.zeros_like(total), 1.0, total, grad)
    exact = angles.double()
    for mine, its in ((total, exact + exact * exact.sin()), (grad, 1 + exact.sin() + exact * exact.cos())):
        error = (mine[0] - its).abs() / exact.abs().clamp(min=1)
        assert error[:-2].max() < 1e-6
        assert mine[0, -2:].isnan().all()


@pytest.mark.skipif(library() is None, reason="no compiled code")
def test_where_the_sum_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(rank: int = 3, dtype: torch.dtype = torch.float32, **values: Any) -> bool:
        chain = chain_of(**values)
        sizes = {**chain.widths, "r": rank, "d_in": 6, "d_out": 7}
        tensors = {name: torch.randn(*shape, dtype=dtype) for name, shape in chain.shapes(sizes).items()}
        return compiled_sinter(chain, torch.randn(7, 6, dtype=dtype), tensors) is not None

    assert compiled() and compiled(dtype=torch.float64) and compiled(rank=32)
    assert not (compiled(rank=33) or compiled(dtype=torch.bfloat16) or compiled(activation="tanh"))
    assert not (compiled(offsets=True) or compiled(p_sizes=[5]))
    with FlopCounterMode(display=False):
        assert not compiled()
    monkeypatch.setenv("TAPERTUNE_KERNEL", "fused")
    assert not compiled()
