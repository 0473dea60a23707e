"""Weights that are tied in the base: the merged model computes what the adapted one computes in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

import tapertune
from tapertune.errors import TapertuneError
from tapertune.interop import merge
from tapertune.methods import METHODS

IDS = torch.arange(12).view(2, 6)
pytestmark = [
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]
SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def llama(**values: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True, **values)).eval()


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()


def bert_mlm() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**SMALL, max_position_embeddings=16)).eval()
    with torch.no_grad():
        model.cls.predictions.bias.normal_()
    return model


def t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).eval()


def bart() -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    sides = {f"{side}_{name}": n for side in ("encoder", "decoder")
             for name, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 24))}  # fmt: skip
    return BartForConditionalGeneration(BartConfig(vocab_size=50, d_model=16, **sides)).eval()


def adapted(base: Any, folder: Path, method: str = "lora", **values: Any) -> PeftModel:
    torch.manual_seed(1)
    config = tapertune.make_config(method, **{METHODS[method].rank: 3}, init_weights=False, **values)
    model = get_peft_model(base, config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".modules_to_save." in key:
                parameter.add_(torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def logits(model: nn.Module) -> torch.Tensor:
    config: Any = model.config
    more = {"decoder_input_ids": IDS.flip(0)} if config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=IDS, **more).logits


def loaded(kind: type, folder: Path) -> nn.Module:
    return kind.from_pretrained(folder).eval()  # type: ignore[attr-defined]


def check(make: Any, folder: Path, method: str = "lora", **values: Any) -> Any:
    base = folder / "base"
    if not base.exists():
        make().save_pretrained(base)
    model = adapted(make(), folder / "adapter", method, **values)
    expected = logits(model)
    before = logits(make())
    assert (expected - before).abs().max() > 0.05, "training has changed something"
    report = merge(base, folder / "adapter", folder / "out")
    torch.testing.assert_close(logits(loaded(type(make()), folder / "out")), expected, atol=2e-5, rtol=1e-4)
    return report


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", [None, "CAUSAL_LM", "FEATURE_EXTRACTION"])
def test_trained_embedding_of_every_method(method: str, task: str | None, tmp_path: Path) -> None:
    """The head that was tied to it stays what it was, whatever the task is called."""
    report = check(llama, tmp_path, method, target_modules=["q_proj"], modules_to_save=["embed_tokens"], task_type=task)
    assert (report.replaced, report.added) == (["model.embed_tokens.weight"], ["lm_head.weight"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("trained", [["lm_head"], ["embed_tokens", "lm_head"]])
@pytest.mark.parametrize("stored", ["embedding", "head", "both"])
def test_whichever_name_the_base_has(trained: list[str], stored: str, tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    state = load_file(path)
    embedding = "model.embed_tokens.weight"
    if stored != "embedding":
        state["lm_head.weight"] = state[embedding].clone()
    if stored == "head":
        del state[embedding]
    save_file(state, path, {"format": "pt"})
    check(llama, tmp_path, target_modules=["q_proj"], modules_to_save=trained)


def test_both_trained_alike_stay_one_weight(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    adapted(llama(), tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    state = load_file(path)
    head, embedding = (f"base_model.model.{name}.weight" for name in ("lm_head", "model.embed_tokens"))
    save_file(state | {head: state[embedding].clone()}, path, {"format": "pt"})
    report = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert (report.replaced, report.added) == (["model.embed_tokens.weight"], [])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (gpt2, {"target_modules": ["c_attn"], "modules_to_save": ["wte"]}),
        (gpt2, {"target_modules": ["c_attn", "lm_head"]}),
        (gpt2, {"target_modules": ["lm_head"]}),
        (bert_mlm, {"target_modules": ["query"], "modules_to_save": ["word_embeddings"]}),
        (bert_mlm, {"target_modules": ["query", "decoder"]}),
        (t5, {"target_modules": ["q"], "modules_to_save": ["lm_head"]}),
        (t5, {"target_modules": ["q"], "modules_to_save": ["encoder.embed_tokens"]}),
        (t5, {"target_modules": ["q", "lm_head"]}),
        (bart, {"target_modules": ["q_proj"], "modules_to_save": ["decoder.embed_tokens"]}),
        (bart, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    ],
)
def test_other_architectures(make: Any, values: dict[str, Any], tmp_path: Path) -> None:
    check(make, tmp_path, **values)


def test_a_part_without_the_head_ends_no_tie(tmp_path: Path) -> None:
    """A classifier on a language model's weights: there is no output head that the embedding could be tied to."""
    from transformers import LlamaForSequenceClassification

    def classifier() -> Any:
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(llama(pad_token_id=0, num_labels=3).config).eval()
        model.model.load_state_dict(llama().model.state_dict())
        return model

    llama().save_pretrained(tmp_path / "base")
    values = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "score"], "task_type": "SEQ_CLS"}
    model = adapted(classifier(), tmp_path / "adapter", **values)
    report = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert report.added == ["score.weight"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"] and len(config["id2label"]) == 3
    out = LlamaForSequenceClassification.from_pretrained(tmp_path / "out", pad_token_id=0).eval()
    torch.testing.assert_close(logits(out), logits(model), atol=2e-5, rtol=1e-4)


def test_a_model_that_transformers_lacks_must_say(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    config = tmp_path / "base" / "config.json"
    adapted(llama(), tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    values = json.loads(config.read_text()) | {"model_type": "unheard-of"}
    config.write_text(json.dumps({k: v for k, v in values.items() if k != "tie_word_embeddings"}))
    with pytest.raises(TapertuneError, match="tie_word_embeddings"):
        merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    for i, (tie, added) in enumerate(((False, []), (True, ["lm_head.weight"]))):
        config.write_text(json.dumps(values | {"tie_word_embeddings": tie}))
        assert merge(tmp_path / "base", tmp_path / "adapter", tmp_path / f"out{i}").added == added
