"""Rows of a batch through adapters of their own, for every method; as PEFT's LoRA has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

import tapertune
from tapertune.errors import TapertuneError
from tapertune.methods import METHODS

METHOD = pytest.mark.parametrize("method", METHODS)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            pad_token_id=0,
            eos_token_id=None,
            bos_token_id=1,
        )
    )


def adapted(method: str, base: Any, targets: tuple[str, ...] = ("q_proj", "v_proj")) -> Any:
    """A model with adapters ``default`` and ``other``."""

    def config() -> Any:
        return tapertune.make_config(method, target_modules=list(targets), init_weights=False)

    model = get_peft_model(base, config())
    model.add_adapter("other", config())
    return model.eval()


def by_adapter(model: Any, call: Any) -> dict[str, Any]:
    """What a call gives with each adapter alone, and without one."""
    outputs = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        outputs[name] = call()
    with model.disable_adapter():
        outputs["__base__"] = call()
    model.set_adapter("default")
    return outputs


@METHOD
@torch.no_grad()
def test_each_row_has_its_adapter(method: str) -> None:
    model, x = adapted(method, llama()), torch.arange(24).view(4, 6)
    alone = by_adapter(model, lambda: model(x).logits)
    names = ["other", "__base__", "default", "other"]
    mixed = model(x, adapter_names=names).logits
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], alone[name][row], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(alone["other"], alone["default"], atol=1e-3)
    torch.testing.assert_close(model(x).logits, alone["default"])


@pytest.mark.parametrize(("method", "beams"), [*((method, 1) for method in METHODS), ("lora", 2)])
def test_generated_rows_have_their_adapters(method: str, beams: int) -> None:
    model, x = adapted(method, llama()), torch.arange(2, 14).view(2, 6)
    options: dict[str, Any] = {
        "max_new_tokens": 6,
        "do_sample": False,
        "num_beams": beams,
        "attention_mask": torch.ones_like(x),
    }
    alone = by_adapter(model, lambda: model.generate(input_ids=x, **options))
    mixed = model.generate(input_ids=x, adapter_names=["other", "__base__"], **options)
    assert mixed[0].tolist() == alone["other"][0].tolist()
    assert mixed[1].tolist() == alone["__base__"][1].tolist()


def test_an_encoder_sees_each_row_once_under_beam_search() -> None:
    torch.manual_seed(0)
    base = T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=32, d_kv=16, d_ff=48, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )
    model, x = adapted("lora", base, ("q", "v")), torch.arange(2, 14).view(2, 6)
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "num_beams": 2}
    alone = by_adapter(model, lambda: model.generate(input_ids=x, **options))
    mixed = model.generate(input_ids=x, adapter_names=["default", "other"], **options)
    width = min(mixed.shape[1], alone["default"].shape[1], alone["other"].shape[1])
    assert mixed[0, :width].tolist() == alone["default"][0, :width].tolist()
    assert mixed[1, :width].tolist() == alone["other"][1, :width].tolist()


def test_what_cannot_be_is_refused() -> None:
    model, x = adapted("lora", llama()), torch.arange(12).view(2, 6)
    with pytest.raises(TapertuneError, match=r"unknown adapter \(adapter_names\) 'othr'.*other"):
        model(x, adapter_names=["default", "othr"])
    with pytest.raises(TapertuneError, match="names 1 adapters, for an input of 2 rows"):
        model(x, adapter_names=["default"])
    with pytest.raises(TapertuneError, match="a list of an adapter's name for each row"):
        model(x, adapter_names="default")
    with pytest.raises(TapertuneError, match="evaluation only"):
        model.train()(x, adapter_names=["default", "other"])
    model.eval().merge_adapter()
    with pytest.raises(TapertuneError, match="unmerge_adapter"):
        model(x, adapter_names=["default", "other"])
    model.unmerge_adapter()
    assert model(x, adapter_names=["default", "other"]).logits.shape == (2, 6, 50)
