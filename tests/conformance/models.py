"""Tiny models under the names that PEFT's tests ask the hub for.

Saved as ``<folder>/<owner>/<name>``. Tests run with that folder as their working directory, where transformers finds
them before it would look at the hub.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

_LLAMA: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
    "max_position_embeddings": 128,
}
_BERT: dict[str, Any] = {**{k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"}, "pad_token_id": 0}
_GPT2: dict[str, Any] = {
    "vocab_size": 200,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "initializer_range": 0.1,
}
_GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}
_OPT: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_attention_heads": 4,
    "word_embed_proj_dim": 32,
    "max_position_embeddings": 128,
    "init_std": 0.1,
}
_BART: dict[str, Any] = {
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 48),
    "vocab_size": 200,
    "d_model": 32,
    "max_position_embeddings": 128,
    "init_std": 0.1,
}
_T5: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 200,
    "decoder_start_token_id": 0,
}


def _build(name: str) -> hf.PreTrainedModel:
    match name.rsplit("/", 1)[-1]:
        case "tiny-random-OPTForCausalLM":
            return hf.OPTForCausalLM(hf.OPTConfig(**_OPT, num_hidden_layers=2))
        case "opt-125m":  # as many layers as the quantisation tests count, and wide enough for blocks of 64
            wide = {**_OPT, "hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 128}
            return hf.OPTForCausalLM(hf.OPTConfig(**wide, num_hidden_layers=12))
        case "tiny-conv1d-decoder":
            return hf.GPT2LMHeadModel(hf.GPT2Config(**_GPT2))
        case "tiny-random-GPTJForCausalLM":
            return hf.GPTJForCausalLM(hf.GPTJConfig(**_GPT2, rotary_dim=4))
        case "tiny-no-bias-decoder":
            return hf.LlamaForCausalLM(hf.LlamaConfig(**_LLAMA))
        case "tiny-dummy-qwen2":
            return hf.Qwen2ForCausalLM(hf.Qwen2Config(**_LLAMA))
        case "tiny-local-attention-decoder":
            return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**_LLAMA, head_dim=8))
        case "tiny-random-T5ForConditionalGeneration-calibrated":
            return hf.T5ForConditionalGeneration(hf.T5Config(**_T5))
        case "tiny-random-BartForConditionalGeneration":
            return hf.BartForConditionalGeneration(hf.BartConfig(**_BART))
        case "tiny-random-BertModel":
            return hf.BertModel(hf.BertConfig(**_BERT))
        case "tiny-random-RobertaModel":
            return hf.RobertaModel(hf.RobertaConfig(**_BERT))
        case "tiny-disentangled-encoder":
            return hf.DebertaModel(hf.DebertaConfig(**_BERT))
        case "tiny-disentangled-encoder-v2":
            return hf.DebertaV2Model(hf.DebertaV2Config(**_BERT))
        case "tiny-random-BertForSequenceClassification":
            return hf.BertForSequenceClassification(hf.BertConfig(**_BERT))
        case "tiny-random-RobertaForSequenceClassification":
            return hf.RobertaForSequenceClassification(hf.RobertaConfig(**_BERT))
        case "tiny-LlamaForSequenceClassification-3.2":
            return hf.LlamaForSequenceClassification(hf.LlamaConfig(**{**_LLAMA, "num_labels": 1}))
    raise LookupError(f"PEFT's tests use a model that is not built here: {name}")


def build(names: Iterable[str], folder: Path) -> None:
    """Saves the named models.

    Raises:
        LookupError: a name that is not known here.
    """
    for name in names:
        if not (folder / name).exists():
            torch.manual_seed(0)
            _build(name).save_pretrained(folder / name)
