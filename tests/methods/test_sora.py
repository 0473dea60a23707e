"""SoRA: both thresholds, the proximal step in a run, the penalty, the counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from tiny import batch, tiny_bert
from torch import nn

import tapertune
from tapertune.adapt import L1
from tapertune.adapt.actuators import shrink
from tapertune.errors import TapertuneError
from tapertune.host import ChainLayer
from tapertune.methods import METHODS

ROW = METHODS["sora"]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.floats(0, 0.5))
def test_soft_threshold_is_the_proximal_operator(values: list[float], threshold: float) -> None:
    """It minimises ``(x - g)^2 / 2 + threshold |x|``: no nearby point does better."""
    gate = nn.Parameter(torch.tensor(values, dtype=torch.float64))
    start = gate.detach().clone()
    shrink([gate], threshold, "soft")

    def cost(x: torch.Tensor) -> torch.Tensor:
        return (x - start).square() / 2 + threshold * x.abs()

    for nudge in (1e-3, -1e-3):
        assert (cost(gate.detach()) <= cost(gate.detach() + nudge) + 1e-12).all()


def test_the_released_threshold() -> None:
    """Between the threshold and twice it everything becomes zero; what equals the threshold stays."""
    gate = nn.Parameter(torch.tensor([0.5, 0.25, 0.25 + 1e-9, 0.4, 0.1, 0.0, -0.3, -0.25, -0.75], dtype=torch.float64))
    shrink([gate], 0.25, "released")
    expected = torch.tensor([0.25, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0, -0.25, -0.5], dtype=torch.float64)
    torch.testing.assert_close(gate.detach(), expected)
    soft = nn.Parameter(torch.tensor([0.4, 0.25, -0.3], dtype=torch.float64))
    shrink([soft], 0.25, "soft")
    torch.testing.assert_close(soft.detach(), torch.tensor([0.15, 0.0, -0.05], dtype=torch.float64))


@pytest.mark.parametrize(("times_lr", "factor"), [(False, 1.0), (True, 0.1)])
def test_the_step_comes_after_the_optimizers(times_lr: bool, factor: float) -> None:
    config = tapertune.make_config("sora", r=3, threshold=0.05, threshold_times_lr=times_lr)
    model = get_peft_model(tiny_bert(), config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    tapertune.attach(model, optimizer, total_steps=5)
    layers = [m for m in model.modules() if isinstance(m, ChainLayer)]
    before = [layer.factor("default", "g").detach().clone() for layer in layers]
    model(**batch()).loss.backward()
    optimizer.step()
    for layer, g in zip(layers, before, strict=True):
        gate = layer.factor("default", "g")
        assert gate.grad is not None
        moved = g - 0.1 * gate.grad
        expected = moved.sign() * (moved.abs() - 0.05 * factor).clamp_min(0)
        torch.testing.assert_close(gate.detach(), expected)


def test_l1_is_a_gradient_not_a_loss() -> None:
    gates = [nn.Parameter(torch.tensor([1.0, -2.0, 0.0])), nn.Parameter(torch.tensor([-0.5]))]
    for g in gates:
        g.grad = torch.zeros_like(g)
    penalty = L1(weight=8.0, gate="g")
    penalty.add([{"g": g} for g in gates])
    assert [g.grad.tolist() for g in gates] == [[2.0, -2.0, 0.0], [-2.0]]  # type: ignore[union-attr]
    assert penalty.value([{"g": g} for g in gates]).item() == pytest.approx(8 * 3.5 / 4)


def test_a_rising_threshold() -> None:
    """The schedule is over the threshold: 0 at first, whole at the end."""
    plan = {"schedule": {"kind": "quadratic", "warmup": 2, "cooldown": 2, "every": 1}}
    config = tapertune.make_config("sora", r=4, threshold=0.1, plan=plan)
    model = get_peft_model(tiny_bert(), config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    controller = tapertune.attach(model, optimizer, total_steps=28)
    gates = [m.factor("default", "g") for m in model.modules() if isinstance(m, ChainLayer)]
    used, known = [], []
    for t in range(28):
        model(**batch(seed=t)).loss.backward()
        optimizer.step()
        used.append(sum(int(g.count_nonzero()) for g in gates))
        known.append(sum(controller.ranks.values()))
    assert used[2] == 48 and used[-1] < 48 and used == sorted(used, reverse=True)
    # gates that move all the time are looked at every tenth step, and at the end
    assert known == [48] * 13 + [used[13]] * 10 + [used[23]] * 5
    assert used[-1] < used[23]
    controller.finish()
    assert sum(controller.ranks.values()) == used[-1]
    assert sum(controller.ranks.values()) == sum(
        m.rank("default") for m in model.modules() if isinstance(m, ChainLayer)
    )


def test_counts() -> None:
    chain = ROW.chain(ROW.settings(r=4))
    shapes = [(768, 768)] * 4 + [(768, 3072), (3072, 768)]
    total = 12 * sum(chain.parameter_count({"d_in": i, "d_out": o, "r": 4}) for i, o in shapes)
    assert total == 663_552 + 72 * 4  # LoRA r=4, 0.66M, and four gates a module


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": -1e-3}, "threshold is -0.001; it must be zero or positive"),
        ({"sparse_lambda": -1}, "sparse_lambda is -1; it must be zero or positive"),
        ({"threshold_form": "sof"}, "did you mean 'soft'"),
        ({"r": 0}, "r is 0"),
    ],
)
def test_bad_settings(values: dict, message: str) -> None:
    with pytest.raises(TapertuneError, match=message):
        ROW.settings(**values)
