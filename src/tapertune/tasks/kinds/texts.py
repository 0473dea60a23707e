"""What classification and regression share: one text or a pair, and one label for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import bad_value
from .. import fields
from ..base import Task
from .base import Collator, Encoded, Example, Feature, Forward, Outcome

# Encoder-decoders whose classifier reads the decoder at the last end token, and fails on a text without one.
_READ_AT_END = frozenset({"bart", "bigbird_pegasus", "mbart", "mt5", "mvp", "plbart", "t5", "umt5"})


def check_end_token(task: Task, config: Any, tokenizer: Any) -> None:
    """Does every text get the end token that the model's classifier reads at?

    Raises:
        TapertuneError: the tokenizer has none, puts none behind texts, or has another than the model.
    """
    if config.model_type not in _READ_AT_END:
        return
    ids = tokenizer(*("a" for _ in task.text), verbose=False)["input_ids"]
    # Trainer gives the model the tokenizer's; a trained model that is loaded again has its own.
    if not {tokenizer.eos_token_id, config.eos_token_id} <= set(ids):
        raise bad_value(
            "the model's tokenizer: eos_token",
            tokenizer.eos_token,
            f"the model's own, number {config.eos_token_id}, and the tokenizer must put it behind every text: the"
            f" classifier of {config.model_type} models reads there",
        )


def texts(task: Task, row: dict[str, Any]) -> list[str]:
    """The row's text or pair of texts."""
    return [fields.text(row, column) for column in task.text]


def encode(examples: Sequence[Example], tokenizer: Any, max_length: int) -> Encoded:
    """Tokenises; what is longer than ``max_length`` tokens is cut (of a pair, the longer text first)."""
    columns = [[example["texts"][i] for example in examples] for i in range(len(examples[0]["texts"]))]
    whole = tokenizer(*columns, verbose=False)
    rows: list[Feature] = [{name: whole[name][i] for name in whole} for i in range(len(examples))]
    long = [i for i, row in enumerate(rows) if len(row["input_ids"]) > max_length]
    if long:
        cut = tokenizer(*([c[i] for i in long] for c in columns), truncation=True, max_length=max_length)
        for j, i in enumerate(long):
            rows[i] = {name: cut[name][j] for name in cut}
    for row, example in zip(rows, examples, strict=True):
        if "label" in example:
            row["labels"] = example["label"]
    empty = sum(not any(text.strip() for text in example["texts"]) for example in examples)
    return Encoded(rows=rows, examples=examples, owners=list(range(len(rows))), truncated=len(long), empty=empty)


def collator(tokenizer: Any) -> Collator:
    from transformers import DataCollatorWithPadding

    return DataCollatorWithPadding(tokenizer)


def logits(forward: Forward, encoded: Encoded, collate: Collator | None = None) -> tuple[np.ndarray, float | None]:
    """The model's outputs (rows x classes, or rows x 1) in order, and the mean loss of rows with labels."""

    def step(numbers: list[int], batch: dict[str, Any]) -> Outcome:
        output = forward.model(**batch)
        values = list(output.logits.float().cpu().numpy())
        return (values, float(output.loss) * len(numbers), len(numbers)) if "labels" in batch else (values, 0.0, 0)

    found, loss = forward.run(encoded.rows, collate or collator(forward.tokenizer), step)
    return np.stack(found), loss
