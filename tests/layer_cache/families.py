"""Small models of each family whose layers are known, and batches with padding for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import nn

from tapertune.layer_cache.stack import find_stack

_SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40,
}  # fmt: skip
_ENCODER = {**_SIZES, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_DECODER = {**_SIZES, "num_key_value_heads": 1}
_RELATIVE = {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}


def _vit() -> nn.Module:
    return hf.ViTForImageClassification(
        hf.ViTConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=8,
                     patch_size=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    )  # fmt: skip


def _t5() -> nn.Module:
    return hf.T5ForConditionalGeneration(
        hf.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=4, num_heads=2, dropout_rate=0.0,
                    decoder_start_token_id=0)
    )  # fmt: skip


def _bart() -> nn.Module:
    return hf.BartForConditionalGeneration(
        hf.BartConfig(vocab_size=64, d_model=16, encoder_layers=4, decoder_layers=2, encoder_attention_heads=2,
                      decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=40,
                      dropout=0.0)
    )  # fmt: skip


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: hf.BertForSequenceClassification(hf.BertConfig(**_ENCODER)),
    "roberta": lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**_ENCODER, pad_token_id=0)),
    "distilbert": lambda: hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(vocab_size=64, dim=16, n_layers=4, n_heads=2, hidden_dim=32, max_position_embeddings=40,
                            dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)
    ),
    "electra": lambda: hf.ElectraForSequenceClassification(hf.ElectraConfig(**_ENCODER, embedding_size=8)),
    "mpnet": lambda: hf.MPNetForSequenceClassification(hf.MPNetConfig(**_ENCODER)),
    "deberta-v2": lambda: hf.DebertaV2ForSequenceClassification(
        hf.DebertaV2Config(**_ENCODER, **_RELATIVE, conv_kernel_size=3, pooler_dropout=0.0)
    ),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_DECODER)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**_DECODER)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**_DECODER, head_dim=8)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**_DECODER)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**_DECODER, head_dim=8)),
    "gpt2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=64, n_embd=16, n_layer=4, n_head=2, n_positions=40, bos_token_id=0, eos_token_id=0,
                      resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    ),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**_SIZES)),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(vocab_size=64, hidden_size=16, num_hidden_layers=4, ffn_dim=32, num_attention_heads=2,
                     max_position_embeddings=40, word_embed_proj_dim=16, dropout=0.0)
    ),
    "t5": _t5,
    "bart": _bart,
    "vit": _vit,
}  # fmt: skip
QUICK = ("bert", "distilbert", "llama", "gpt2", "t5", "vit")
_CLASSIFIERS = ("bert", "roberta", "distilbert", "electra", "mpnet", "deberta-v2")
_PADDED_LEFT = ("llama", "qwen2")


def family(name: str) -> nn.Module:
    torch.manual_seed(0)
    return FAMILIES[name]().train()


def batches(name: str, lengths: tuple[int, ...] = (8, 10, 7), rows: int = 3) -> list[dict[str, torch.Tensor]]:
    """Batches of rows of unequal lengths."""
    draw = torch.Generator().manual_seed(0)
    classes = torch.arange(rows) % 2
    if name == "vit":
        return [{"pixel_values": torch.randn(rows, 3, 8, 8, generator=draw), "labels": classes} for _ in lengths]
    made = []
    for length in lengths:
        mask = torch.ones(rows, length, dtype=torch.long)
        for row in range(1, rows):
            mask[row, length - row :] = 0
        mask = mask.flip(1) if name in _PADDED_LEFT else mask
        ids = torch.randint(3, 64, (rows, length), generator=draw) * mask
        labels = classes if name in _CLASSIFIERS else torch.where(mask.bool(), ids, -100)
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return made


def freeze_below(model: nn.Module, level: int) -> None:
    """Lets the layers from a level on train, and nothing below."""
    model.requires_grad_(False)
    for layer in find_stack(model).layers[level:]:
        layer.requires_grad_(True)


def train(model: Any, data: list[dict[str, torch.Tensor]], epochs: int, rate: float = 0.05) -> dict[str, torch.Tensor]:
    """The weights after so many epochs of plain SGD."""
    for _ in range(epochs):
        for batch in data:
            model(**batch).loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter -= rate * parameter.grad
                        parameter.grad = None
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
