"""LoRAN against recorded forward passes of its released code, and where it must differ from that code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import batch, mlp, tiny_bert

import tapertune
from tapertune.errors import TapertuneError
from tapertune.host import ChainLayer
from tapertune.kernels.update_flops import flops_per_token
from tapertune.methods import METHODS
from tapertune.methods.loran import ACTIVATIONS

ROW = METHODS["loran"]
RELEASED = {"Sin": "sinter"}


@pytest.mark.parametrize("form", ["square", "P", "PP"])
@pytest.mark.parametrize(
    "activation", ["Sigmoid", "Tanh", "Relu", "Silu", "Identity", "Swish", "Sin", "Cos", "Gaussian"]
)
def test_released_forward_passes_are_reproduced(golden: Any, activation: str, form: str) -> None:
    run = golden("loran_forward.npz")
    data = {k.split("/")[2]: torch.tensor(v) for k, v in run.items() if k.startswith(f"{activation}/{form}/")}
    count = sum(key.startswith("P") for key in data)
    settings = ROW.settings(
        r=data["A"].shape[0], activation=RELEASED.get(activation, activation.lower()), amplitude=5e-4, omega=1e3,
        p_sizes=[data[f"P{i}"].shape[0] for i in range(1, count + 1)], offsets=count > 0, center=False,
    )  # fmt: skip
    chain = ROW.chain(settings)
    tensors = {name: data[name].view(-1) if name.startswith("b") else data[name] for name in chain.names}
    sizes = {"d_in": data["x"].shape[1], "d_out": data["B"].shape[0], "r": settings.r, **chain.widths}
    assert {name: tuple(t.shape) for name, t in tensors.items()} == chain.shapes(sizes)
    out = chain.apply(data["x"], tensors)
    # processors add in orders of their own: what that changes goes by the terms of a sum, not by what is left of them
    terms = data["x"].abs() @ chain.delta_weight(tensors).abs().T
    assert ((out - data["y_delta_unscaled"]).abs() <= 1e-12 + 1e-10 * terms).all()


def adapted(**values: Any) -> torch.nn.Module:
    torch.manual_seed(1)
    return get_peft_model(mlp(), tapertune.make_config("loran", r=3, target_modules=["0", "2"], **values))


@pytest.mark.parametrize("p_sizes", [[], [5], [5, 4]])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_starts_as_the_base_model_and_is_not_dead(activation: str, p_sizes: list[int]) -> None:
    """The released start, B and the last P both zero, never trains anything but offsets."""
    model = adapted(activation=activation, p_sizes=p_sizes)
    x = torch.randn(8, 6)
    with model.disable_adapter():  # type: ignore[operator]
        expected = model(x)
    assert torch.equal(model(x), expected)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert not torch.equal(p, start[name]), name


def test_identity_is_lora() -> None:
    """The control that every comparison of maps needs."""
    loran = ROW.chain(ROW.settings(r=3, activation="identity"))
    lora = METHODS["lora"].chain(METHODS["lora"].settings(r=3))
    tensors = {"A": torch.randn(3, 6), "B": torch.randn(4, 3)}
    torch.testing.assert_close(loran.delta_weight(tensors), lora.delta_weight(tensors))


def test_the_map_is_evaluated_in_float32() -> None:
    """In bfloat16 omega x is off by radians; under autocast and with half-precision factors it must not be."""
    chain = ROW.chain(ROW.settings(r=3))
    tensors = {"A": torch.randn(3, 6) / 4, "B": torch.randn(4, 3) / 4}
    exact = chain.delta_weight(tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(chain.delta_weight(tensors), exact)
    half = {n: t.bfloat16() for n, t in tensors.items()}
    again = chain.delta_weight({n: t.float() for n, t in half.items()})
    assert torch.equal(chain.delta_weight(half), again) and again.dtype == torch.float32


def test_merging_into_half_precision_warns() -> None:
    model = get_peft_model(tiny_bert().bfloat16(), tapertune.make_config("loran", r=2, init_weights=False))
    with pytest.warns(UserWarning, match="rounds away most of what its elementwise map adds"):
        model.merge_and_unload()
    exact = get_peft_model(tiny_bert(), tapertune.make_config("loran", r=2, init_weights=False)).eval()
    expected = exact(**batch()).logits
    torch.testing.assert_close(exact.merge_and_unload()(**batch()).logits, expected, atol=1e-5, rtol=1e-4)


def test_afloras_freezing_on_loran() -> None:
    plan = {
        "schedule": {"kind": "cubic", "warmup": 1, "cooldown": 2, "every": 1},
        "policy": {"kind": "lowest_fraction", "factors": ["A", "B"]},
    }
    model = adapted(p_sizes=[5], plan=plan)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    controller = tapertune.attach(model, optimizer, total_steps=8)
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().sum().backward()
        optimizer.step()
    assert len(controller.frozen) == 4


def test_counts_and_costs() -> None:
    """Llama-2-7B, q and v: 33,554,432 parameters at r = 64, as LoRA; one dense product a token and pass."""
    chain = ROW.chain(ROW.settings())
    sizes = {"d_in": 4096, "d_out": 4096, "r": 64}
    assert 64 * chain.parameter_count(sizes) == 33_554_432
    assert flops_per_token(chain, sizes).total == 6 * 4096 * 4096


def test_no_lora_form() -> None:
    layer = next(m for m in adapted().modules() if isinstance(m, ChainLayer))
    with pytest.raises(TapertuneError, match="no lossless LoRA form"):
        layer.chains["default"].lora_factors(layer.tensors("default"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"activation": "sintr"}, "unknown activation 'sintr': did you mean 'sinter'"),
        ({"p_sizes": [4, 0]}, r"p_sizes\[1\] is 0; it must be a positive whole number"),
        ({"omega": float("inf")}, "omega is inf"),
    ],
)
def test_bad_settings(values: dict, message: str) -> None:
    with pytest.raises(TapertuneError, match=message):
        ROW.settings(**values)
