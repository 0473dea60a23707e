from __future__ import annotations

import copy
import pickle

import pytest
from torch import nn

import tapertune
from tapertune.errors import TapertuneError
from tapertune.methods import METHODS
from tapertune.methods.rates import SuggestedRate, written


def suggest(name: str, width: int = 384, steps: int = 200, batch: int = 16, **values: object) -> SuggestedRate:
    config = tapertune.make_config(name, **values)
    return tapertune.suggest_learning_rate(nn.Linear(width, width), config, steps, batch)


@pytest.mark.parametrize("name", METHODS)
def test_the_rule_of_every_method(name: str) -> None:
    rate = suggest(name)
    assert 0 < rate.low < rate < rate.high < 1
    assert suggest(name, steps=2000) < rate < suggest(name, steps=60)
    assert suggest(name, width=4096) <= rate
    assert suggest(name, batch=2) < rate == suggest(name, batch=64)
    assert suggest(name, steps=10**9) == suggest(name, steps=10**6)
    assert name in rate.explain() and "200 steps" in rate.explain() and rate.source in rate.explain()
    row = METHODS[name]
    assert set(row.rates.factors) <= set(row.chain(row.settings()).names)
    assert row.tunes is not None
    for value in row.tunes[1]:
        tapertune.make_config(name, **{row.tunes[0]: value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lora", {"lora_alpha": 64}), ("loran", {"lora_alpha": 64}), ("sora", {"lora_alpha": 64}),
        ("adalora", {"lora_alpha": 64}), ("lora2", {"lora_alpha": 64}), ("elora", {"d_initial": 1.0}),
        ("aflora", {"d_initial": 1.0}), ("aflora", {"scaling": "alpha/r", "lora_alpha": 16}),
    ],
)  # fmt: skip
def test_a_stronger_update_learns_more_slowly(name: str, values: dict[str, object]) -> None:
    assert suggest(name, **values) < suggest(name)
    assert "times as strong as by default" in suggest(name, **values).explain()


def test_rank_is_no_matter_while_alpha_is_divided_by_it() -> None:
    assert suggest("lora", r=64) == suggest("lora")


def test_the_three_that_learned_nothing_at_a_thousandth() -> None:
    """1,000 rows, three epochs in batches of 16: they learned at 1e-2 to 3e-2, not at 1e-3."""
    for name in ("adalora", "elora", "lora2"):
        rate = suggest(name, steps=189)
        assert 7e-3 <= rate <= 3e-2
        assert rate.low > 1e-3
    assert suggest("adalora", steps=940).low < 1e-3  # where AdaLoRA learned at it
    assert suggest("lora", width=4096, steps=2000) == pytest.approx(1.7e-4, rel=0.1)


def test_a_rate_far_off_is_said_in_a_line() -> None:
    rate = suggest("adalora", steps=189)
    assert rate.doubt(float(rate), "adalora") is None
    for far, side in ((1e-4, "less"), (5.0, "more")):
        line = rate.doubt(far, "adalora")
        assert line is not None and "\n" not in line
        assert f"far {side} than adalora learned at" in line and f"try {written(rate)} (auto)" in line


def test_a_rate_is_a_number_that_can_be_copied() -> None:
    rate = suggest("lora")
    for other in (copy.deepcopy(rate), pickle.loads(pickle.dumps(rate))):
        assert (float(other), other.low, other.reasons) == (float(rate), rate.low, rate.reasons)
    assert isinstance(rate, float) and 2 * rate == 2 * float(rate)


def test_what_is_no_run_is_refused() -> None:
    from peft import LoraConfig

    config = tapertune.make_config("lora")
    with pytest.raises(TapertuneError, match="config is 'LoraConfig'; it must be the config of a method"):
        tapertune.suggest_learning_rate(nn.Linear(4, 4), LoraConfig(), 10, 4)  # type: ignore[arg-type]
    with pytest.raises(TapertuneError, match="total_steps is 0; it must be a positive whole number"):
        tapertune.suggest_learning_rate(nn.Linear(4, 4), config, 0, 4)
    with pytest.raises(TapertuneError, match="batch_size is -1"):
        tapertune.suggest_learning_rate(nn.Linear(4, 4), config, 1, -1)
    with pytest.raises(TapertuneError, match="neither a config with a hidden_size nor linear layers"):
        tapertune.suggest_learning_rate(nn.ReLU(), config, 1, 1)
