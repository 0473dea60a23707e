"""The naive forms are the methods: the same update as ours from the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tapertune.benchmark.naive import (
    NaiveAFLora,
    NaiveAFLoraFrozen,
    NaiveLayer,
    NaiveLora2,
    NaiveLoran,
    NaiveScores,
    replace_layers,
)
from tapertune.methods import get_method

Row = tuple[Callable[..., NaiveLayer], str, dict[str, Any]]
ROWS: list[Row] = [
    (NaiveAFLora, "aflora", {"r": 4}),
    (NaiveLora2, "lora2", {"init_r": 8, "k": 8}),
    (NaiveLoran, "loran", {"r": 8}),
]


@pytest.mark.parametrize(("layer", "method", "settings"), ROWS, ids=[row[1] for row in ROWS])
def test_equals_the_chain(layer: Callable[..., NaiveLayer], method: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    made = layer(nn.Linear(24, 40)).double()
    row = get_method(method)
    chosen = row.settings(**settings)
    chain = row.chain(chosen)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    x = torch.randn(5, 24, dtype=torch.float64)
    update = chain.apply(x, {name: getattr(made, name) for name in chain.names}) * row.scaling(chosen)
    torch.testing.assert_close(made(x), made.base_layer(x) + update)


def test_frozen_form_trains_the_vectors_alone() -> None:
    made = NaiveAFLoraFrozen(nn.Linear(8, 8).requires_grad_(False))
    assert {name for name, p in made.named_parameters() if p.requires_grad} == {"d", "b"}


def test_penalty_of_lora2_vanishes_for_orthonormal_factors() -> None:
    made = NaiveLora2(nn.Linear(24, 40), r=8, k=8)
    assert all(term > 1 for term in made.penalties())
    with torch.no_grad():
        for parameter in (made.A, made.B, made.aa, made.bb):
            nn.init.orthogonal_(parameter)
    assert all(term < 1e-4 for term in made.penalties())


def test_scores_are_averages_of_sensitivity() -> None:
    made = NaiveAFLora(nn.Linear(8, 8))
    scores = NaiveScores([made], times_weight=False)
    for parameter in (made.A, made.B):
        parameter.grad = torch.ones_like(parameter)
    scores.observe(1)
    assert len(scores.tensors) == 2
    torch.testing.assert_close(scores.mean[0], torch.full_like(made.A, 0.15))
    torch.testing.assert_close(scores.deviation[0], torch.full_like(made.A, 0.05 * 0.85))


def test_layers_are_put_in_place() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    made = replace_layers(model, ["1.0"], NaiveAFLora)
    assert model.get_submodule("1.0") is made[0] and isinstance(model[0], nn.Linear)
