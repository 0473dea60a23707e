"""A model, a tokenizer and data small enough that a run takes a second."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = ("good", "bad", "tea", "rain", "the", "a", "very", "not", "warm", "cold")


def write_model(folder: Path, width: int = 16, layers: int = 2) -> Path:
    """A BERT body with random weights (no pooler, no classifier) and a tokenizer of whole words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    vocabulary = {word: number for number, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=32,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def write_data(folder: Path, rows: int = 40, seed: int = 0) -> Path:
    """Sentences of six words; class 1 holds ``good``."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    for name in ("train", "validation"):
        lines = []
        for _ in range(rows):
            label = draw.randrange(2)
            words = [draw.choice(WORDS[2:]) for _ in range(draw.randrange(3, 6))] + [WORDS[1 - label]]
            lines.append(json.dumps({"sentence": " ".join(words), "label": label}) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def raw_settings(root: Path, method: str = "aflora", **changes: Any) -> dict[str, Any]:
    """Settings of a run of 15 steps on what the two functions above write."""
    raw: dict[str, Any] = {
        "model": str(root / "model"),
        "task": {"name": "sst2", "data": str(root / "data"), "max_length": 16},
        "method": {"name": method},
        "training": {
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 3,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": 4,
            "save_total_limit": 5,
        },
        "head": {"learning_rate": 2e-2, "weight_decay": 0.1},
        "output_dir": str(root / "run"),
        "seed": 7,
    }
    if method == "aflora":
        raw["plan"] = {"schedule": {"kind": "cubic", "warmup": 1, "cooldown": 5, "every": 2}}
    for dotted, value in changes.items():
        block, names = raw, dotted.split("__")
        for name in names[:-1]:
            block = block[name]
        block[names[-1]] = value
    return raw
