"""What the plug-ins of axolotl and ms-swift make of those programs' settings. `make test-hosts` trains in them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from tiny import tiny_bert
from torch import nn

import tapertune
from tapertune.errors import TapertuneError
from tapertune.integrations import axolotl, ms_swift
from tapertune.methods import METHODS


class Settings(dict):
    """As axolotl's: an attribute for each key, and None for what is not there."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


class LlamaForCausalLM(nn.Module):
    pass


@pytest.mark.parametrize("method", METHODS)
def test_axolotl_settings_make_a_config_of_every_method(method: str) -> None:
    block = Settings(method=method, r=3, plan=None)
    config = axolotl.adapter_config(Settings(tapertune=block, lora_target_linear=True), LlamaForCausalLM())
    row = METHODS[method]
    assert config.method == method and getattr(config, row.rank) == 3
    assert (config.target_modules, config.task_type) == ("all-linear", "CAUSAL_LM")


def test_axolotls_own_fields_are_taken_where_the_block_has_none() -> None:
    cfg = Settings(tapertune=Settings(method="aflora"), lora_target_modules=["q_proj"], lora_modules_to_save=["head"])
    config = axolotl.adapter_config(cfg, tiny_bert())
    assert (config.target_modules, config.modules_to_save, config.task_type) == ({"q_proj"}, ["head"], "SEQ_CLS")
    cfg = Settings(tapertune=Settings(method="aflora", target_modules=["v_proj"]), lora_target_modules=["q_proj"])
    assert axolotl.adapter_config(cfg, LlamaForCausalLM()).target_modules == {"v_proj"}


def test_axolotls_plans_are_mappings_of_python() -> None:
    plan = Settings(schedule=Settings(warmup=1, every=2))
    config = axolotl.adapter_config(Settings(tapertune=Settings(method="aflora", plan=plan)), LlamaForCausalLM())
    assert config.plan == {"schedule": {"warmup": 1, "every": 2}} and type(config.plan["schedule"]) is dict


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (None, "a block with `method`"),
        (Settings(r=4), "a block with `method`"),
        (Settings(method=4), "tapertune.method"),
        (Settings(method="aflra"), "aflora"),
        (Settings(method="aflora", rnk=4), "rnk"),
        (Settings(method="adalora", init_r=2, target_r=4), "target_r"),
    ],
)
def test_axolotl_settings_that_are_none(block: Any, message: str) -> None:
    with pytest.raises(TapertuneError, match=message):
        axolotl.adapter_config(Settings(tapertune=block), LlamaForCausalLM())


def test_another_adapter_of_axolotl_is_left_alone() -> None:
    plugin = axolotl.TapertunePlugin()
    cfg = Settings(adapter="lora")
    assert plugin.load_adapter(LlamaForCausalLM(), cfg) is None
    assert plugin.add_callbacks_post_trainer(cfg, None) == []


def test_axolotls_trainers_that_make_the_adapter_get_its_config() -> None:
    cfg = Settings(adapter="tapertune", tapertune=Settings(method="sora"), lora_target_linear=True)
    model, config = axolotl.TapertunePlugin().load_adapter(LlamaForCausalLM(), cfg, config_only=True) or (0, 0)
    assert model is None and isinstance(config, tapertune.SoraConfig)
    [callback] = axolotl.TapertunePlugin().add_callbacks_post_trainer(cfg, None)
    assert isinstance(callback, tapertune.TapertuneCallback)


@dataclasses.dataclass
class Arguments:
    """Those of ms-swift's that count here, with its defaults."""

    target_modules: list[str] = dataclasses.field(default_factory=lambda: ["all-linear"])
    target_regex: str | None = None
    modules_to_save: list[str] = dataclasses.field(default_factory=list)
    lora_rank: int = 8
    lora_alpha: float = 32.0
    lora_dropout: float = 0.05
    adalora_target_r: int = 8
    adalora_init_r: int = 12
    adalora_tinit: int = 100
    task_type: str = "causal_lm"


@pytest.mark.parametrize("method", METHODS)
def test_ms_swifts_defaults_are_not_the_methods(method: str) -> None:
    values = ms_swift.config_values(Arguments(), ["sft.py"])
    assert values == {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    assert tapertune.make_config(method, **values).settings() == METHODS[method].settings()


def test_ms_swifts_options_that_were_given_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["sft.py", "--lora_rank", "8", "--adalora_tinit=100"]  # as by default, and given all the same
    values = ms_swift.config_values(Arguments(lora_dropout=0.1, modules_to_save=["embed_tokens"]), typed)
    assert (values["r"], values["tinit"], values["lora_dropout"]) == (8, 100, 0.1)
    assert values["modules_to_save"] == ["embed_tokens"] and "lora_alpha" not in values
    assert ms_swift.config_values(Arguments(target_modules=["q_proj"]), [])["target_modules"] == ["q_proj"]
    assert ms_swift.config_values(Arguments(target_regex=".*q_proj"), [])["target_modules"] == ".*q_proj"
    assert ms_swift.config_values(Arguments(task_type="seq_cls"), [])["task_type"] == "SEQ_CLS"
    monkeypatch.setenv(ms_swift.FIELDS, json.dumps({"r": 3, "plan": {"schedule": {"every": 5}}}))
    assert ms_swift.config_values(Arguments(lora_rank=4), [])["r"] == 3


@pytest.mark.parametrize("text", ["{", "[1]", "4"])
def test_fields_in_the_environment_that_are_no_mapping(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ms_swift.FIELDS, text)
    with pytest.raises(TapertuneError, match=ms_swift.FIELDS):
        ms_swift.config_values(Arguments(), [])
