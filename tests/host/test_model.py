"""Targets, roles and labels of modules; errors that name what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from tiny import batch, mlp, tiny_bert
from torch import nn

import tapertune
from tapertune.host import adapter_parameters
from tapertune.host.module_names import TARGETS, layer_index, module_kind, row_label


@pytest.mark.parametrize(
    ("module", "widths", "layer", "kind", "row"),
    [
        ("bert.encoder.layer.3.attention.self.query", (8, 8), 3, "attention", "attn.query.A"),
        ("bert.encoder.layer.3.attention.output.dense", (8, 8), 3, "attention", "attn.out.A"),
        ("deberta.encoder.layer.11.intermediate.dense", (8, 32), 11, "ffn", "inter.A"),
        ("deberta.encoder.layer.11.output.dense", (32, 8), 11, "ffn", "out.A"),
        ("model.layers.2.self_attn.q_proj", (8, 8), 2, "attention", "q.A"),
        ("model.layers.2.mlp.down_proj", (32, 8), 2, "ffn", "mlp.down.A"),
        ("model.decoder.layers.1.fc1", (8, 8), 1, "ffn", "fc1.A"),
        ("transformer.h.0.attn.c_proj", (8, 8), 0, "attention", "attn.c.A"),
        ("transformer.h.0.mlp.c_proj", (32, 8), 0, "ffn", "mlp.c.A"),
        ("encoder.block.0.layer.1.DenseReluDense.wi", (8, 32), 0, "ffn", None),
        ("decoder.block.0.layer.0.SelfAttention.q", (8, 8), 0, "attention", None),
        ("head", (8, 8), None, "attention", "head.A"),
        ("lin", (8, 32), None, "ffn", "lin.A"),
    ],
)
def test_roles(module: str, widths: tuple[int, int], layer: int | None, kind: str, row: str | None) -> None:
    assert layer_index(module) == layer
    assert module_kind(module, *widths) == kind
    assert row is None or row_label(module, "A") == row


def small(model_type: str) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    widths = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32,
        "num_key_value_heads": 2, "head_dim": 8, "dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2, "n_embd": 16,
        "n_layer": 2, "n_head": 2, "d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2, "ffn_dim": 32,
        "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "word_embed_proj_dim": 16, "rotary_dim": 4,
        "embedding_size": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0,
    }  # fmt: skip
    config = AutoConfig.for_model(model_type)
    for key, value in widths.items():
        if hasattr(config, key) and key not in config.attribute_map:
            setattr(config, key, value)
    if model_type == "gpt_neo":
        config.attention_types, config.attention_layers = [[["global"], 2]], ["global", "global"]
    if hasattr(config, "layer_types"):
        config.layer_types = None
        config.__post_init__() if hasattr(config, "__post_init__") else None
    with torch.device("meta"):
        return AutoModel.from_config(config)


@pytest.mark.parametrize(
    "model_type",
    ["bert", "roberta", "electra", "deberta", "deberta-v2", "distilbert", "albert", "mpnet", "vit", "llama", "mistral",
     "gemma", "phi", "phi3", "bart", "opt", "t5", "gpt2", "gpt_neox", "gptj", "gpt_neo", "bloom"],
)  # fmt: skip
def test_default_targets_cover_attention_and_feed_forward(model_type: str) -> None:
    model = small(model_type)
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"}
    hit = {n for n in linear if any(n == t or n.endswith("." + t) for t in TARGETS[model_type])}
    modules = dict(model.named_modules())
    kinds = {module_kind(n, *reversed(modules[n].weight.shape)) for n in hit}
    assert kinds == {"attention", "ffn"}
    assert not any(name in n for n in hit for name in ("pooler", "lm_head", "embed"))
    inside = {n for n in linear if any(part.isdigit() for part in n.split("."))}
    positions = {n for n in inside if "relative" in n or "pos_" in n}
    assert inside - hit - positions == set(), "every linear layer of a block is adapted"


def test_unknown_target_suggests_the_nearest() -> None:
    for targets, missing in ((["qury"], "qury"), (["query", "valeu"], "valeu")):
        with pytest.raises(tapertune.TapertuneError, match=f"no module is called '{missing}'; did you mean"):
            get_peft_model(tiny_bert(), tapertune.make_config("aflora", target_modules=targets))


def test_unsupported_modules_and_unknown_architectures() -> None:
    with pytest.raises(ValueError, match="LayerNorm' is a LayerNorm, which is not supported"):
        get_peft_model(tiny_bert(), tapertune.make_config("lora", target_modules=["embeddings.LayerNorm"]))
    with pytest.raises(ValueError, match="Please specify `target_modules`"):
        get_peft_model(mlp(), tapertune.make_config("lora"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 4}, "unknown field of aflora 'rank'"),
        ({"target_modules": 3}, "target_modules is 3"),
        ({"layers_pattern": "layer"}, "layers_pattern is 'layer'"),
        ({"target_modules": "a|b", "layers_to_transform": [1]}, "layers_to_transform is"),
        ({"plan": {"schedule": {"wramup": 3}}}, "did you mean 'warmup'"),
        ({"schema_version": 2}, "schema 2; this tapertune reads up to 1"),
    ],
)
def test_bad_configs(values: dict, message: str) -> None:
    with pytest.raises(tapertune.TapertuneError, match=message):
        tapertune.make_config("aflora", **values)
    with pytest.raises(AttributeError, match="no attribute 'AFloraConfig'"):
        _ = tapertune.AFloraConfig


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments:UserWarning")
def test_an_adapter_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    get_peft_model(tiny_bert(), tapertune.make_config("aflora")).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2, "novelty": 1}))
    with pytest.raises(tapertune.TapertuneError, match="reads up to 1"):
        PeftConfig.from_pretrained(tmp_path)
    with pytest.raises(tapertune.TapertuneError, match="reads up to 1"):
        PeftModel.from_pretrained(tiny_bert(), tmp_path)


def test_a_truncated_adapter_is_refused(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    get_peft_model(tiny_bert(), tapertune.make_config("aflora")).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(SafetensorError):
        PeftModel.from_pretrained(tiny_bert(), tmp_path)


def test_handles_describe_the_adapter() -> None:
    model = get_peft_model(tiny_bert(), tapertune.make_config("aflora", r=2))
    handles = adapter_parameters(model)
    assert len(handles) == 2 * 6 * 4
    inter = next(h for h in handles if h.row == "inter.A" and h.layer == 1)
    assert inter.name == "bert.encoder.layer.1.intermediate.dense.A"
    assert inter.parameter is model.get_parameter(f"base_model.model.{inter.module}.tapertune_aflora_A.default.weight")
    assert inter.matrix and inter.kind == "ffn"


@pytest.mark.parametrize("order", ["before", "after"])
def test_frozen_survives_dtype_casts(order: str) -> None:
    """PEFT re-creates parameters when it casts adapters; what is frozen stays so."""
    model = get_peft_model(tiny_bert().to(torch.bfloat16), tapertune.make_config("aflora", r=2))
    handle = next(h for h in adapter_parameters(model) if h.matrix and h.kind == "ffn")
    if order == "before":
        handle.freeze()
    model.float()
    if order == "after":
        handle.freeze()
    model.set_adapter("default")
    assert not handle.parameter.requires_grad
    model(**batch()).loss.backward()
    assert handle.parameter.grad is None
