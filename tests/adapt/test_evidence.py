"""Layers that freeze when their scores have settled, and the score that compares windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tapertune.adapt import BottomUp, Plan, PolicyScope, Scores
from tapertune.adapt.averages import Averages
from tapertune.adapt.importance import Change
from tapertune.errors import TapertuneError

LAYERS = tuple((f"l.{number}.q.A", f"l.{number}.q.B") for number in range(6))
SCOPE = PolicyScope(scored=tuple(n for layer in LAYERS for n in layer), freeze_groups=LAYERS[:4], compared=LAYERS[4:])


def scores(*means: float | None) -> Scores:
    """Of layers from the lowest up; None: nothing trains there any more."""
    names = [name for layer, mean in zip(LAYERS, means, strict=True) if mean is not None for name in layer]
    values = [torch.full((4,), float(mean)) for mean in means if mean is not None for _ in range(2)]
    return Scores(names, torch.cat(values), [4] * len(names), [torch.Size([2, 2])] * len(names))


def frozen(policy: BottomUp, remaining: float, *means: float | None) -> int:
    decision = policy.decide(scores(*means), remaining, SCOPE)
    names = [name for layer in LAYERS for name in layer if name in decision.freeze]
    assert tuple(names) == decision.freeze and len(names) % 2 == 0
    return len(names) // 2


def test_layers_freeze_while_they_have_settled() -> None:
    policy = BottomUp(evidence=0.5, ahead=1.0, behind=1.0)
    assert frozen(policy, 0.9, 1, 2, 3, 4, 5, 6) == 3  # the lower half
    assert frozen(policy, 0.9, 1, 6, 3, 4, 5, 2) == 1  # a layer above one that moves waits for it
    assert frozen(policy, 0.9, 6, 1, 1, 1, 1, 1) == 0
    assert frozen(policy, 0.9, 1, 1, 1, 1, 1, 1) == 0  # none has settled more than the others
    assert frozen(policy, 0.9, None, None, 1, 5, 4, 6) == 3
    assert frozen(policy, 0.0, 1, 1, 1, 1, 9, 9) == 0  # the quantile is theirs too
    assert frozen(policy, 0.5, None, None, None, None, 9, 9) == 4


def test_the_schedule_is_a_lower_and_an_upper_bound() -> None:
    settled, moving = (1, 2, 3, 4, 50, 60), (60, 50, 41, 40, 2, 1)
    policy = BottomUp(evidence=0.9, ahead=0.25, behind=0.25)
    assert [frozen(policy, r, *settled) for r in (1.0, 0.9, 0.5, 0.2, 0.0)] == [0, 1, 3, 4, 4]
    policy = BottomUp(evidence=0.25, ahead=0.25, behind=0.25)
    assert [frozen(policy, r, *moving) for r in (1.0, 0.9, 0.5, 0.2, 0.0)] == [0, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("field", "value"), [("evidence", 1.0), ("evidence", 0), ("evidence", "yes"), ("ahead", 1.5), ("behind", -0.1)]
)
def test_wrong_settings_are_named(field: str, value: Any) -> None:
    with pytest.raises(TapertuneError, match=rf"policy.{field} is "):
        Plan.from_dict({"policy": {"kind": "bottom_up", field: value}})
    with pytest.raises(TapertuneError, match=r"importance.window"):
        Plan.from_dict({"importance": {"kind": "change", "window": None}})


def test_change_compares_the_norms_of_windows() -> None:
    """AutoFreeze's: the gradients of a window are summed with their signs, and norms of neighbours compared."""
    torch.manual_seed(0)
    window, shapes = 3, [torch.Size([2, 3]), torch.Size([4])]
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    averages = Averages(Change(window=window), ["a", "b"], shapes, torch.device("cpu"), torch.float32)
    gradients = [[torch.randn(shape) for shape in shapes] for _ in range(3 * window + 1)]
    for step, each in enumerate(gradients):
        for parameter, gradient in zip(parameters, each, strict=True):
            parameter.grad = gradient.clone()
        averages.observe(step, parameters)
        if step < 2 * window:
            assert set(averages.scores().elements.tolist()) <= {0.0, 1.0}  # nothing to compare yet
    means = averages.scores().means()
    for number in range(2):
        old, new = (
            sum(gradients[start * window + i][number] for i in range(window)) for start in (1, 2)
        )  # fmt: skip
        expected = (new.norm() - old.norm()).abs() / old.norm()  # type: ignore[union-attr]
        assert means[number] == pytest.approx(float(expected), rel=1e-5)
