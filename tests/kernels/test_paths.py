"""Which path and form are chosen, and that they do the work that the choice counts on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import batch, mlp, tiny_bert
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import tapertune
from tapertune.kernels import Call, Path, Spec, choose
from tapertune.kernels.forms import Form, Work, _Passes, cheapest
from tapertune.kernels.fused import fused
from tapertune.kernels.run import run
from tapertune.kernels.vectors import merged_vectors, two_matrices
from tapertune.methods import METHODS

ALL: list[Form | None] = [
    None,
    *(Form(wide=w, keep=k, apart=a) for w, k, a in itertools.product((False, True), repeat=3)),
]
ELORA = METHODS["elora"].chain(METHODS["elora"].settings())


def layer(work: Work, dtype: torch.dtype = torch.float32, trains: tuple[str, ...] = ("d", "b")) -> tuple[Any, ...]:
    """x, weight and ELoRA's factors."""
    sizes = {"r": work.rank, "d_in": work.d_in, "d_out": work.d_out}
    tensors = {
        n: torch.randn(*s, dtype=dtype).requires_grad_(work.trains and n in trains)
        for n, s in ELORA.shapes(sizes).items()
    }
    x = torch.randn(work.tokens, work.d_in, dtype=dtype, requires_grad=work.input_grad)
    return x, torch.randn(work.d_out, work.d_in, dtype=dtype), tensors


@pytest.mark.parametrize(
    ("tokens", "rank", "d_in", "d_out", "form"),
    [
        # as measured, 8 rows of 128 tokens: half a step of the frozen model less than the low-rank form at r = 256 ...
        (1024, 256, 384, 384, Form(wide=True, keep=True)),
        (1024, 256, 384, 1536, Form(wide=False, keep=True)),
        (1024, 256, 1536, 384, Form(wide=False, keep=True)),
        # ... less with larger layers, whose folded weights are not kept where they are largest
        (1024, 256, 768, 768, Form(wide=False, keep=True)),
        (1024, 256, 768, 3072, Form(wide=False, keep=False)),
        (1024, 1024, 384, 384, Form(wide=True, keep=True)),
        (1024, 1024, 1536, 384, Form(wide=True, keep=True)),
        (1024, 64, 384, 384, Form(wide=False, keep=False)),
        # small ranks: about as fast in the low-rank form, which layers can share
        (1024, 16, 384, 384, None),
        (1024, 4, 768, 768, None),
        # few tokens: the folded weight is more work than they are
        (64, 256, 768, 768, None),
        (1, 1024, 4096, 4096, None),
        (16, 4, 384, 384, None),
    ],
)
def test_forms(tokens: int, rank: int, d_in: int, d_out: int, form: Form | None) -> None:
    assert cheapest(Work(tokens=tokens, rank=rank, d_in=d_in, d_out=d_out)) == form


@pytest.mark.parametrize(
    ("tokens", "rank", "d_in", "d_out", "form"),
    [
        # as measured: at r = 1024 a third to a half of the low-rank form's time
        (1024, 1024, 384, 384, Form(wide=True, keep=True, apart=True)),
        (1024, 1024, 768, 3072, Form(wide=True, keep=False, apart=True)),
        (256, 1024, 384, 384, Form(wide=True, keep=True, apart=True)),
        # the update's own products are a layer's: too much beside lower ranks and greater widths
        (1024, 256, 768, 768, None),
        (4096, 256, 2048, 2048, None),
        (1024, 64, 384, 1536, None),
        # and beside few tokens
        (256, 1024, 384, 1536, None),
        (128, 1024, 384, 384, None),
    ],
)
def test_forms_in_half_precision(tokens: int, rank: int, d_in: int, d_out: int, form: Form | None) -> None:
    assert cheapest(Work(tokens=tokens, rank=rank, d_in=d_in, d_out=d_out, half=True)) == form


def test_a_form_without_backward() -> None:
    """Nothing to keep; one folded weight for many tokens, none for few."""
    for tokens, folds in ((4096, True), (8, False)):
        form = cheapest(Work(tokens=tokens, rank=256, d_in=768, d_out=768, trains=False, input_grad=False))
        assert form == (Form(wide=False, keep=False) if folds else None)


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize(("trains", "input_grad"), [(True, True), (True, False), (False, True), (False, False)])
def test_operations_are_those_that_are_counted(form: Form | None, trains: bool, input_grad: bool) -> None:
    work = Work(tokens=40, rank=8, d_in=16, d_out=32, trains=trains, input_grad=input_grad)
    x, weight, tensors = layer(work)
    with FlopCounterMode(display=False) as counter:
        if form is None:
            y = fused(ELORA, x, weight, None, tensors, 1.0)
        else:
            factors = two_matrices(ELORA, tensors)
            assert factors is not None
            y = merged_vectors(x, weight, None, factors, 1.0, form)
        if y.requires_grad:
            y.sum().backward()
    base = 2 * work.tokens * work.d_in * work.d_out * (1 + input_grad)
    assert counter.get_total_flops() == base + work.flops(form)


def test_no_product_for_gradients_that_nobody_can_take() -> None:
    work = Work(tokens=40, rank=8, d_in=16, d_out=32, trains=False, input_grad=False)
    x, weight, tensors = layer(Work(tokens=40, rank=8, d_in=16, d_out=32))
    factors, form = two_matrices(ELORA, tensors), Form(wide=False, keep=False)
    assert factors is not None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        merged_vectors(x, weight, None, factors, 1.0, form)
    assert counter.get_total_flops() == 2 * 40 * 16 * 32 + work.flops(form)


@dataclass
class OneLayer:
    """A layer as kernels see it."""

    spec: Spec
    weight: Tensor
    factors: dict[str, Tensor]
    update: Any = ELORA
    bias: None = None
    scaling: float = 1.0
    dropout: None = None

    def tensors(self) -> dict[str, Tensor]:
        return self.factors

    def merged(self, weight: Tensor) -> Tensor:
        raise AssertionError("nobody has asked for it")


def spec_of(weight: Tensor, tensors: dict[str, Tensor]) -> Spec:
    return Spec.of(ELORA, tensors, weight.shape, dtype=weight.dtype)


def test_the_chosen_path_is_run() -> None:
    work = Work(tokens=512, rank=32, d_in=64, d_out=64)
    assert cheapest(work) is not None

    def made(x: Tensor, weight: Tensor, tensors: dict[str, Tensor]) -> str:
        spec, call = spec_of(weight, tensors), Call.of(x)
        path = choose(spec, call)
        y = run(path, OneLayer(spec, weight, tensors), x, call)
        merges = type(y.grad_fn).__name__ == "_MergedLinearBackward"
        assert merges == (path is Path.VECTORS) != path.joinable
        return "merged" if merges else "fused"

    x, weight, tensors = layer(work)
    assert made(x, weight, tensors) == "merged"
    assert made(x[:20].detach().requires_grad_(), weight, tensors) == "fused"
    assert made(*layer(work, trains=("A", "d", "b"))) == "fused"
    # where the sum would lose the update, it is applied by itself, which pays at high ranks alone
    narrow, high = (Work(tokens=512, rank=rank, d_in=256, d_out=256) for rank in (32, 512))
    assert (made(*layer(narrow)), made(*layer(narrow, torch.bfloat16))) == ("merged", "fused")
    assert made(*layer(high, torch.bfloat16)) == "merged"
    for work in (narrow, high):
        x, weight, tensors = layer(work)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert choose(spec_of(weight, tensors), Call.of(x)).joinable == (work is narrow)


def test_a_mapped_chain_has_a_node_of_its_own() -> None:
    chain = METHODS["loran"].chain(METHODS["loran"].settings(r=2))
    spec = Spec(update=chain, sizes={"r": 2, "d_in": 4, "d_out": 4}, trains=frozenset("AB"))
    assert choose(spec, Call.of(torch.zeros(3, 4))) is Path.DENSE_MAP


@pytest.fixture
def always_folds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("tapertune.kernels.forms._SINGLE", _Passes(narrow=48, build=-1000, behind=0, token=0))
    monkeypatch.setattr("tapertune.kernels.forms.LEAST_RANK", 0)
    cheapest.cache_clear()
    yield
    cheapest.cache_clear()


# kernels are compared without anything that decides
@pytest.mark.filterwarnings("ignore:.*whose plan nobody runs:UserWarning")
@pytest.mark.usefixtures("always_folds")
@pytest.mark.parametrize("name", ["elora", "aflora"])
def test_the_same_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {}
    for kernel in ("fused", "reference"):
        monkeypatch.setenv("TAPERTUNE_KERNEL", kernel)
        torch.manual_seed(1)
        config = tapertune.make_config(name, r=12, init_weights=False)
        model = get_peft_model(tiny_bert().double(), config).double()
        matrices = [p for n, p in model.named_parameters() if "_A." in n or "_B." in n]
        for p in matrices:
            p.requires_grad_(False)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
        losses = []
        for t in range(4):
            optimizer.zero_grad()
            loss = model(**batch(seed=t)).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        runs[kernel] = losses
    assert runs["fused"] == pytest.approx(runs["reference"], abs=1e-10)


@pytest.mark.usefixtures("always_folds")
def test_dropout_is_never_left_out() -> None:
    """The folded form applies the update to the base's input; with dropout these differ."""
    torch.manual_seed(0)
    config = tapertune.make_config("elora", r=2, dropout=0.5, target_modules=["0"], init_weights=False)
    model = get_peft_model(mlp(), config).train()
    x = torch.randn(8, 6)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
