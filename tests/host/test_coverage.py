"""What of a model is under an adapter, and what is left out and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from experts import mixtral
from layer_kinds import CASES, Attending, adapted
from peft import get_peft_model
from tiny import tiny_bert, tiny_gpt2
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tapertune
from tapertune.errors import TapertuneError
from tapertune.host import coverage
from tapertune.host.coverage import Coverage
from tapertune.methods import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_shares_are_those_of_the_layers(method: str) -> None:
    base = tiny_bert()
    total = sum(p.numel() for p in base.parameters())
    under = sum(p.numel() for n, p in base.named_parameters() if "query" in n)
    model = get_peft_model(base, tapertune.make_config(method, **{METHODS[method].rank: 2}, target_modules=["query"]))
    covered = coverage(model)
    assert (covered.parameters, covered.adapted_parameters, covered.modules) == (total, under, 2)
    assert covered.adapted_flops == 2 * 2 * 16 * 16
    kinds = {(each.kind, each.reason) for each in covered.left_out}
    assert kinds == {("Linear", "no target"), ("Embedding", "no target")}
    line = str(covered)
    assert f"2 layers with {100 * under / total:.3g}% of {total:,} parameters" in line and "\n" not in line
    assert not covered.unexpected


def test_operations_are_those_that_a_pass_takes() -> None:
    for case, positions in (("conv2d", 49), ("groups", 25)):
        base, x = CASES[case][0](), CASES[case][1][:1]
        with FlopCounterMode(display=False) as counter:
            base.part(x)  # type: ignore[operator]
        assert coverage(adapted(base, "lora")).adapted_flops * positions == counter.get_total_flops()


def test_why_something_is_left_out() -> None:
    values: dict[str, Any] = {"exclude_modules": ["key"], "modules_to_save": ["classifier"]}
    model = get_peft_model(tiny_bert(), tapertune.make_config("lora", target_modules=["query"], **values))
    reasons = {each.reason: each for each in coverage(model).left_out}
    assert set(reasons) == {"excluded", "trained whole", "no target"}
    assert reasons["excluded"].count == 2 and reasons["trained whole"].parameters == 34
    attending = adapted(nn.ModuleDict({"a": Attending()}), "lora", target_modules=["head"])
    assert any("nn.MultiheadAttention" in each.reason for each in coverage(attending).left_out)


def test_everything_of_attention_is_counted_once() -> None:
    base = Attending()
    covered = coverage(adapted(base, "lora"))
    assert covered.parameters == sum(p.numel() for p in Attending().parameters())
    assert covered.adapted_flops == 2 * (8 * 24 + 8 * 8)


class Own(nn.Module):
    """A module with a matrix of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(4, 4))


def test_what_is_not_supported_is_a_warning() -> None:
    covered = coverage(adapted(nn.ModuleDict({"part": nn.Linear(4, 4), "own": Own()}), "lora"))
    assert covered.unexpected
    assert "1 Own (44.4% of the parameters, 50% of the FLOPs: not supported)" in str(covered)


def test_names_that_match_nothing_in_some_layers() -> None:
    def base() -> nn.Module:
        parts = [nn.ModuleDict({name: nn.Linear(2, 2) for name in names}) for names in ("a", "ab", "ab")]
        return nn.ModuleDict({"layers": nn.ModuleList(parts)})

    model = adapted(base(), "lora", target_modules=["a", "b"])
    assert coverage(model).missing == (("b", 2, 3),)
    assert "matched nothing: 'b' in 1 of 3 layers" in str(coverage(model))
    model = adapted(base(), "lora", target_modules=["a"])
    assert not coverage(model).missing


def test_no_operation_is_an_error_of_one_line() -> None:
    model = get_peft_model(tiny_gpt2(), tapertune.make_config("lora"))
    model.merge_and_unload()
    with pytest.raises(TapertuneError):
        coverage(model).check()
    empty = Coverage(parameters=4, adapted_parameters=0, flops=4, adapted_flops=0, modules=0)
    with pytest.raises(TapertuneError, match="target_modules: the adapter covers no FLOP of the model") as error:
        empty.check()
    assert "\n" not in str(error.value)


def test_quantised_or_not_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cheap: no layer is called."""
    model = get_peft_model(tiny_bert(), tapertune.make_config("lora"))
    monkeypatch.setattr(nn.Module, "__call__", None)
    assert coverage(model).adapted_flops


def test_stacked_experts_count_for_what_is_adapted_of_them() -> None:
    with_experts = get_peft_model(mixtral(), tapertune.LoraConfig(r=2))  # pyright: ignore[reportArgumentType]
    covered = coverage(with_experts)
    names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    alone = tapertune.LoraConfig(r=2, target_modules=names, target_parameters=["experts.down_proj"])
    part = coverage(get_peft_model(mixtral(), alone))  # pyright: ignore[reportArgumentType]
    base = mixtral()
    stacks = {n: p.numel() for n, p in base.named_parameters() if p.dim() == 3}
    assert covered.parameters == part.parameters == sum(p.numel() for p in base.parameters())
    up = sum(number for name, number in stacks.items() if "gate_up" in name)
    assert covered.adapted_parameters - part.adapted_parameters == up
    assert covered.adapted_flops - part.adapted_flops == 2 * up * 2 // 4  # a token goes to two of four
    assert "MixtralExperts" not in str(covered)
