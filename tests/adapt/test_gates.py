"""Gates of many modules at once, and what hangs on them."""

from __future__ import annotations

import pytest
import torch
from adapt.handles import Factor, gradients, triplets
from torch import nn

from tapertune.adapt.components import component_scores, group_by_gate
from tapertune.adapt.gates import Gates
from tapertune.errors import TapertuneError

SHAPES = [(6, 8), (8, 5), (6, 8)]
KEEP = {
    "0.E": torch.tensor([True, False, True, False]),
    "1.E": torch.zeros(4, dtype=torch.bool),
    "2.E": torch.ones(4, dtype=torch.bool),
}


def make() -> tuple[dict[str, Factor], Gates]:
    factors = {f.name: f for f in triplets(SHAPES)}
    return factors, Gates(factors, group_by_gate(factors.values(), "E"))


def test_masks_and_counts() -> None:
    factors, gates = make()
    before = {name: f.parameter.detach().clone() for name, f in factors.items()}
    gates.mask(KEEP)
    for name, factor in factors.items():
        expected = before[name] * KEEP[name] if name in KEEP else before[name]
        assert torch.equal(factor.parameter, expected)
    assert gates.ranks() == {"0": 2, "1": 0, "2": 4}
    assert gates.sizes() == {"0": 4, "1": 4, "2": 4}
    gates.mask({})


@pytest.mark.parametrize("chosen", [True, False], ids=["as decided", "what is zero"])
def test_cutting_takes_rows_columns_gradients_and_moments(chosen: bool) -> None:
    factors, gates = make()
    values = {name: f.home[f.factor] for name, f in factors.items()}
    optimizer = torch.optim.AdamW(values.values(), lr=0.1)
    gradients(list(factors.values()), 0)
    optimizer.step()
    with torch.no_grad():
        values["2.E"][1] = 0  # kept all the same, where that is decided
    gates.mask(KEEP)
    before = {n: (p.detach().clone(), p.grad, optimizer.state[p]["exp_avg"]) for n, p in values.items()}
    cuts = gates.cut(KEEP if chosen else {}, optimizer)
    assert {name.split(".")[0] for name in cuts} == ({"0", "1"} if chosen else {"0", "1", "2"})
    for name, p in values.items():
        module, axis = name.split(".")[0], 1 if name.endswith("B") else 0
        keep = KEEP[f"{module}.E"].clone()
        if module == "2" and not chosen:
            keep[1] = False
        index = keep.nonzero().flatten()
        for old, new in zip(before[name], (p.detach(), p.grad, optimizer.state[p]["exp_avg"]), strict=True):
            assert old is not None and new is not None
            assert torch.equal(new, old.index_select(axis, index))
    optimizer.step()


def test_thresholds_by_learning_rate() -> None:
    factors, gates = make()
    before = {name: f.parameter.detach().clone() for name, f in factors.items()}
    groups = [
        {"params": [factors["0.E"].parameter], "lr": 1.0},
        {"params": [factors["1.E"].parameter, factors["2.E"].parameter], "lr": 0.5},
    ]
    gates.shrink(0.2, "soft", {"0.E", "1.E"}, torch.optim.SGD(groups))
    for name, threshold in (("0.E", 0.2), ("1.E", 0.1), ("2.E", 0.0)):
        expected = nn.functional.softshrink(before[name], threshold) if threshold else before[name]
        torch.testing.assert_close(factors[name].parameter.detach(), expected)
    other = torch.optim.SGD([factors["0.A"].parameter])
    with pytest.raises(TapertuneError, match=r"policy\.times_lr needs the gates"):
        gates.shrink(0.2, "soft", {"0.E"}, other)


def test_component_scores_are_sums_of_means() -> None:
    factors, gates = make()
    gates.cut({**KEEP, "1.E": torch.tensor([False, True, True, False])}, None)
    scores = {name: torch.rand(f.parameter.shape, dtype=torch.float64) for name, f in factors.items()}
    found = component_scores(scores, gates.groups)
    for group, value in zip(gates.groups, found, strict=True):
        a, e, b = (scores[f"{group.module}.{name}"] for name in "AEB")
        torch.testing.assert_close(value, e + a.mean(1) + b.mean(0))
