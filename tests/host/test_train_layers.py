"""Adapting the top layers alone, by a share or a number of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel, get_peft_model
from tiny import tiny_bert, tiny_gpt2

import tapertune
from tapertune.errors import TapertuneError
from tapertune.host import adapter_parameters
from tapertune.methods import METHODS


def layers(model: Any) -> set[int | None]:
    return {handle.layer for handle in adapter_parameters(model)}


@pytest.mark.parametrize("method", METHODS)
def test_the_top_half(method: str, tmp_path: Path) -> None:
    config = tapertune.make_config(method, train_layers=0.5)
    model: Any = get_peft_model(tiny_bert(2), config)  # type: ignore[arg-type]
    assert layers(model) == {1}
    model.save_pretrained(tmp_path)
    again: Any = PeftModel.from_pretrained(tiny_bert(2), tmp_path)  # type: ignore[arg-type]
    assert layers(again) == {1} and again.peft_config["default"].layers_to_transform == [1]


@pytest.mark.parametrize(("count", "there"), [(1, {1}), (2, {0, 1}), (1.0, {0, 1}), (0.01, {1})])
def test_a_share_or_a_number(count: Any, there: set[int]) -> None:
    for base, targets in ((tiny_bert(2), "all-linear"), (tiny_gpt2(), None)):
        config = tapertune.make_config("lora", train_layers=count, target_modules=targets)
        assert layers(get_peft_model(base, config)) - {None} == there  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [0, 1.5, -1, True, "half", 3])
def test_what_is_none(wrong: Any) -> None:
    with pytest.raises(TapertuneError, match=r"train_layers is "):
        get_peft_model(tiny_bert(2), tapertune.make_config("lora", train_layers=wrong))  # type: ignore[arg-type]


def test_one_way_to_say_which() -> None:
    with pytest.raises(TapertuneError, match="both say which layers"):
        tapertune.make_config("lora", train_layers=0.5, layers_to_transform=[0])
    with pytest.raises(TapertuneError, match=r"train_layers is 0.5.*regular expression"):
        tapertune.make_config("lora", train_layers=0.5, target_modules=".*query")
