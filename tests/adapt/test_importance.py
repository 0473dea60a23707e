"""Averages against the formulas written out, and policies as pure functions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tapertune.adapt import (
    Averages,
    Gradient,
    GradientOverWeight,
    GradientTimesWeight,
    LowestFraction,
    MeanBelowQuantile,
    PolicyScope,
    Scores,
    blocks,
)


def parameters(seed: int = 0) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((2, 3), (4,), (3, 1))]


def averages(importance: Any, params: list[nn.Parameter]) -> Averages:
    names = [str(i) for i in range(len(params))]
    return Averages(importance, names, [p.shape for p in params], torch.device("cpu"), torch.float64)


SIGNALS = {
    Gradient: lambda g, p: g.abs(),
    GradientTimesWeight: lambda g, p: (g * p).abs(),
    GradientOverWeight: lambda g, p: (g / p).abs(),
}


@pytest.mark.parametrize("kind", SIGNALS)
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("limit", [None, 7, 1], ids=["one block", "two", "three"])
def test_averages_equal_the_formulas(
    kind: type[Gradient], window: int | None, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit is not None:
        monkeypatch.setattr(blocks, "_CPU", limit)
    params = parameters()
    mine = averages(kind(beta1=0.8, beta2=0.9, window=window), params)
    mean = [torch.zeros_like(p) for p in params]
    dev = [torch.zeros_like(p) for p in params]
    seen: list[list[torch.Tensor]] = []
    for step in range(8):
        for p in params:
            p.grad = torch.randn_like(p)
        mine.observe(step, params)
        signals = [SIGNALS[kind](p.grad, p.detach()) for p in params]
        if window is None:
            folds = [signals]
        else:
            folds = (
                [[torch.stack(part).mean(0) for part in zip(*seen, strict=True)]] if step % window == 0 and seen else []
            )
            seen = [signals] if step % window == 0 else [*seen, signals]
        for fold in folds:
            for m, d, s in zip(mean, dev, fold, strict=True):
                m.mul_(0.8).add_(0.2 * s)
                d.mul_(0.9).add_(0.1 * (s - m).abs())
    expected = torch.cat([(m * d).flatten() for m, d in zip(mean, dev, strict=True)])
    torch.testing.assert_close(mine.scores().elements, expected)
    torch.testing.assert_close(mine.scores().means()[1], (mean[1] * dev[1]).mean())


@pytest.mark.parametrize("window", [None, 4])
def test_one_bad_gradient_does_no_lasting_harm(window: int | None) -> None:
    """PEFT's AdaLoRA averages stay non-finite for good after a single such step."""
    params = parameters()
    mine = averages(Gradient(window=window), params)
    for step in range(12):
        for p in params:
            p.grad = torch.ones_like(p)
        if step == 5:
            params[0].grad = torch.full_like(params[0], math.nan)
            params[1].grad = torch.full_like(params[1], math.inf)
        mine.observe(step, params)
    assert mine.scores().elements.isfinite().all()


@pytest.mark.parametrize("window", [None, 4])
def test_what_is_not_finite_counts_as_the_mean(window: int | None) -> None:
    params, bad = parameters(), parameters()
    mine, other = averages(Gradient(window=window), params), averages(Gradient(window=window), bad)
    for step in range(6):
        for p, q in zip(params, bad, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        if step == 5:
            # what the mean (of the window, within one) is by now, and nothing that could be taken for a number
            mean = mine.mean if window is None else mine.window
            first = mean[:6].view(2, 3)
            assert params[0].grad is not None and bad[0].grad is not None
            params[0].grad[0] = first[0]
            bad[0].grad[0] = torch.tensor([math.nan, math.inf, -math.inf])
        mine.observe(step, params)
        other.observe(step, bad)
    torch.testing.assert_close(other.state_dict(), mine.state_dict())


def test_scaled_gradients_are_seen_unscaled() -> None:
    params = parameters()
    mine, scaled = averages(GradientTimesWeight(), params), averages(GradientTimesWeight(), params)
    for p in params:
        p.grad = torch.randn_like(p)
    mine.observe(0, params)
    for p in params:
        assert p.grad is not None
        p.grad.mul_(1024)
    scaled.observe(0, params, torch.tensor(1 / 1024))
    torch.testing.assert_close(scaled.state_dict(), mine.state_dict())


def test_a_missing_gradient_counts_as_zero_and_a_zero_weight_is_not_observed() -> None:
    params = parameters()
    mine = averages(Gradient(), params)
    for p in params[1:]:
        p.grad = torch.ones_like(p)
    mine.observe(0, params)
    assert not mine.mean[:6].any() and (mine.mean[6:] > 0).all()
    over = averages(GradientOverWeight(), params)
    params[1].data.zero_()
    over.observe(0, params)
    assert not over.mean[6:10].any() and (over.mean[10:] > 0).all()


def test_dropping_keeps_the_rest_as_it_was() -> None:
    params = parameters()
    mine = averages(Gradient(window=2), params)
    for step in range(5):
        for p in params:
            p.grad = torch.randn_like(p)
        mine.observe(step, params)
    before = mine.scores()
    mine.drop(["1"])
    after = mine.scores()
    assert after.names == ["0", "2"] and after.sizes == [6, 3]
    torch.testing.assert_close(after.elements, torch.cat([before.elements[:6], before.elements[10:]]))
    mine.drop(["0", "2"])
    assert mine.mean.numel() == 0
    mine.observe(6, [])


def test_cutting_keeps_the_rest_as_it_was_and_goes_on() -> None:
    params = parameters()
    mine = averages(Gradient(window=2), params)
    for step in range(6):
        if step == 3:
            index = torch.tensor([0, 2])
            before = mine.scores().shaped()
            mine.take({"0": (1, index), "1": (0, index), "elsewhere": (0, index)})
            after = mine.scores().shaped()
            torch.testing.assert_close(after, {"0": before["0"][:, index], "1": before["1"][index], "2": before["2"]})
            params = [nn.Parameter(p.detach()) for p in (params[0][:, index], params[1][index], params[2])]
        for p in params:
            p.grad = torch.randn_like(p)
        mine.observe(step, params)
    assert [tuple(s.shape) for s in mine.scores().shaped().values()] == [(2, 2), (2,), (3, 1)]


def scores_of(groups: list[list[float]]) -> Scores:
    flat = torch.tensor([x for group in groups for x in group], dtype=torch.float64)
    return Scores([str(i) for i in range(len(groups))], flat, [len(g) for g in groups])


groups = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=5), min_size=1, max_size=8)


@given(groups, st.floats(0, 1), st.integers(0, 5))
def test_lowest_fraction_freezes_what_is_due_and_the_lowest(
    data: list[list[float]], remaining: float, gone: int
) -> None:
    scores, total = scores_of(data), len(data) + gone
    decision = LowestFraction().decide(scores, remaining, PolicyScope(scored=(), total=total))
    due = max(0, math.floor((1 - remaining) * total + 1e-9) - gone)
    assert len(decision.freeze) == min(due, len(data))
    means = dict(zip(scores.names, scores.means().tolist(), strict=True))
    kept = [means[n] for n in scores.names if n not in decision.freeze]
    assert all(means[n] <= low for n in decision.freeze for low in kept)


@given(groups, st.floats(0, 1))
def test_mean_below_quantile_is_the_released_rule(data: list[list[float]], remaining: float) -> None:
    scores = scores_of(data)
    decision = MeanBelowQuantile().decide(scores, remaining, PolicyScope(scored=()))
    flat = sorted(x for group in data for x in group)
    rank = int(len(flat) * (1 - remaining))
    if rank == 0:
        assert decision.freeze == ()
    elif remaining == 0:
        assert decision.freeze == tuple(scores.names)
    else:
        means = scores.means().tolist()
        assert decision.freeze == tuple(n for n, m in zip(scores.names, means, strict=True) if m < flat[rank - 1])
        assert decision.threshold == flat[rank - 1]
