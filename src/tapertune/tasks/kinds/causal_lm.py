"""Answers that a decoder writes behind their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import TapertuneError
from .. import packing
from ..base import Task
from ..generation import GenerationTask
from ..prompts import decoder_tokens, labels_of, pieces, text_ids
from .base import Collator, Encoded, Example, Feature, Forward, Predicted
from .generated import (
    Generated,
    check_end_token,
    collator,
    generate,
    generation_task,
    mean_loss,
    pad_id,
    trimmed,
)  # fmt: skip


class CausalLM(Generated):
    """Loss on the answer alone, padding on the right to train and on the left to generate."""

    auto_class = "AutoModelForCausalLM"
    task_type = "CAUSAL_LM"
    fits = "a decoder, such as Llama or smollm2"

    def check_model(self, task: Task, config: Any, tokenizer: Any) -> None:
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        )

        task, name = generation_task(task), config.model_type
        if getattr(config, "is_encoder_decoder", False):
            raise TapertuneError(f"task {task.name} is set up for decoders and {name} is an encoder-decoder: "
                                 "set task.kind to seq2seq")  # fmt: skip
        masked = name in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
        if name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or masked:
            raise TapertuneError(f"task {task.name} needs a model that writes text, and {name} is an encoder: "
                                 f"use {self.fits}")  # fmt: skip
        check_end_token(config, tokenizer)
        positions = getattr(config, "max_position_embeddings", None)
        wanted = task.max_length + task.generating.max_new_tokens
        if positions is not None and wanted > positions:
            raise TapertuneError(
                f"task.max_length ({task.max_length}) and task.generation.max_new_tokens "
                f"({task.generating.max_new_tokens}) make {wanted} tokens; this model reads {positions}"
            )

    def encode(
        self, task: Task, examples: Sequence[Example], tokenizer: Any, max_length: int, *, train: bool
    ) -> Encoded:
        task = generation_task(task)
        whole, cut = _with_answers(task, examples, tokenizer, max_length)
        unfit = sum("answer" in example and row is None for example, row in zip(examples, whole, strict=True))
        if train:
            owners = [number for number, feature in enumerate(whole) if feature is not None]
            rows = [feature for feature in whole if feature is not None]
            return Encoded(rows=rows, examples=examples, owners=owners, truncated=sum(cut), left_out=unfit)
        rows, cut = _prompts(task, examples, tokenizer, max_length)
        examples = [_as_generated(task, example, tokenizer) for example in examples]
        owners = list(range(len(rows)))
        return Encoded(rows=rows, examples=examples, owners=owners, extras=whole, truncated=sum(cut), left_out=unfit)

    def unfit(self, task: Task) -> str:
        return f"prompt and answer together do not fit into task.max_length ({task.max_length} tokens)"

    def collator(self, task: Task, tokenizer: Any, *, train: bool) -> Collator:
        if train and generation_task(task).packing:
            return packing.collator(pad_id(tokenizer))
        return collator(tokenizer, left=not train)

    def predict(self, task: Task, forward: Forward, encoded: Encoded) -> Predicted:
        answers = generate(generation_task(task), forward, encoded.rows, decoder=True)
        rows = [row for row in encoded.extras if row is not None]
        return Predicted(answers=answers, loss=mean_loss(forward, rows, shifted=True))


def _with_answers(
    task: GenerationTask, examples: Sequence[Example], tokenizer: Any, max_length: int
) -> tuple[list[Feature | None], list[bool]]:
    """Prompt and answer of each example, None where they do not fit or there is no answer; and which were cut."""
    features: list[Feature | None] = []
    cut: list[bool] = []
    for example in examples:
        tokens = None
        if "answer" in example:
            tokens = decoder_tokens(
                example, task.prompt_format, tokenizer, max_length, answered=True, cut=task.prompt_cut
            )
        cut.append(tokens is not None and tokens.cut)
        features.append(
            None
            if tokens is None
            else {"input_ids": tokens.ids, "labels": labels_of(tokens, everything=task.train_on_prompt)}
        )
    return features, cut


def _as_generated(task: GenerationTask, example: Example, tokenizer: Any) -> Example:
    """The example; where its answer calls tools, scored against what the template makes of the calls."""
    if not example.get("reply", {}).get("tool_calls"):
        return example
    text = pieces(example, task.prompt_format, tokenizer, answered=True)[-1][0]
    shown = tokenizer.decode(text_ids(text, tokenizer), skip_special_tokens=True)
    return {**example, "reference": trimmed(task, shown)}


def _prompts(
    task: GenerationTask, examples: Sequence[Example], tokenizer: Any, max_length: int
) -> tuple[list[Feature], list[bool]]:
    """The prompt of each example, and which were cut."""
    options: Any = {"answered": False, "cut": task.prompt_cut}
    found = [decoder_tokens(example, task.prompt_format, tokenizer, max_length, **options) for example in examples]
    tokens = [prompt for prompt in found if prompt is not None]
    assert len(tokens) == len(found), "a prompt alone is cut to any length"
    return [{"input_ids": prompt.ids} for prompt in tokens], [prompt.cut for prompt in tokens]
