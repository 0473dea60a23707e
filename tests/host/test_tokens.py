"""Tokens that train beside an adapter: PEFT's own, with every method."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

import tapertune
from tapertune.errors import TapertuneError
from tapertune.interop import export_lora, merge
from tapertune.methods import METHODS

IDS = torch.arange(12).view(2, 6)
NUMBERS = [3, 7]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*whose plan nobody runs:UserWarning"),
]


def llama(tie: bool = True) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes, tie_word_embeddings=tie)).eval()


def trained(method: str, base: Any, tokens: Any = NUMBERS) -> PeftModel:
    torch.manual_seed(1)
    values = {METHODS[method].rank: 3, "init_weights": False, "trainable_token_indices": tokens}
    model = get_peft_model(base, tapertune.make_config(method, task_type="CAUSAL_LM", **values))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    return model.eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize(
    ("method", "tie"),
    [
        pytest.param(name, tie, marks=() if (name, tie) in (("lora", True), ("loran", False)) else pytest.mark.slow)
        for name in METHODS
        for tie in (True, False)
    ],
)
def test_saved_loaded_merged_and_exported(method: str, tie: bool, tmp_path: Path) -> None:
    base = llama(tie)
    base.save_pretrained(tmp_path / "base")
    model = trained(method, copy.deepcopy(base))
    table = base.get_input_embeddings().weight
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    expected = logits(model)
    state = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    (rows,) = [tensor for name, tensor in state.items() if "trainable_tokens_delta" in name]
    assert rows.shape == (2, 16) and not torch.allclose(rows, table[NUMBERS], atol=1e-4)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter")), expected)
    error = None if METHODS[method].chain(METHODS[method].settings()).linear else 1e-4
    export_lora(tmp_path / "adapter", tmp_path / "lora", max_error=error)
    lora = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "lora")
    torch.testing.assert_close(logits(lora), expected, atol=1e-3, rtol=1e-3)
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    again = type(base).from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(again), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, 50], "trainable_token_indices is 50; it must be numbers below 50"),
        ({"embed_tokens": [99]}, "trainable_token_indices is 99; it must be numbers below 50"),
        ({"embed_token": [1]}, "no module is called 'embed_token'; did you mean 'embed_tokens'"),
        ([-1], "trainable_token_indices is \\[-1\\]; it must be a list of different whole numbers"),
        ([1, 1], "it must be a list of different whole numbers"),
        ([], "it must be a list of different whole numbers"),
        ("3", "it must be a list of tokens' numbers"),
        ({"embed_tokens": 3}, "trainable_token_indices.embed_tokens is 3"),
    ],
)
def test_bad_tokens_are_refused_in_a_line(tokens: Any, message: str) -> None:
    with pytest.raises(TapertuneError, match=message) as error:
        get_peft_model(llama(), tapertune.make_config("aflora", trainable_token_indices=tokens))
    assert "\n" not in str(error.value)


def test_tokens_of_the_wrong_number_are_not_merged(tmp_path: Path) -> None:
    base = llama()
    base.save_pretrained(tmp_path / "base")
    trained("lora", base).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(path.read_text().replace("3,\n    7", "3,\n    70"))
    with pytest.raises(TapertuneError, match="has 50 tokens, no token 70"):
        merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
