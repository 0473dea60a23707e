"""Small real models, built from configs: seconds to train, every code path of the large ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def tiny_bert(labels: int = 2, **changes: Any) -> nn.Module:
    """Two layers of BERT for sequence classification, without dropout."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=labels,
        **changes,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def tiny_gpt2() -> nn.Module:
    """Two layers of GPT-2, whose linear layers are Conv1D."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


def mlp(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Linear layers of unequal widths, named ``0`` and ``2``."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4)).to(dtype)


def batch(rows: int = 4, length: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    """Token ids and labels that go with ``tiny_bert``."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 64, (rows, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}


def checkpoint(model: Any, *, reentrant: bool) -> None:
    """Activation checkpointing in a transformers model, under whichever name its version has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})


class Rows(torch.utils.data.Dataset):
    """A fixed set of labelled rows for Trainer."""

    def __init__(self, count: int = 64) -> None:
        data = batch(count)
        self.rows = [{key: value[i] for key, value in data.items()} for i in range(count)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]
