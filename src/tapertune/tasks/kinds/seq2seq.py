"""Answers that an encoder-decoder's decoder writes about what its encoder reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import TapertuneError
from ..base import Task
from ..generation import GenerationTask
from ..prompts import around, cut_ids, source_text, text_ids
from .base import Collator, Encoded, Example, Feature, Forward, Predicted
from .generated import (
    Generated,
    check_end_token,
    collator,
    generate,
    generation_task,
    mean_loss,
)  # fmt: skip


class Seq2Seq(Generated):
    """Labels are the answer's tokens; the model shifts them to be its decoder's input."""

    auto_class = "AutoModelForSeq2SeqLM"
    task_type = "SEQ_2_SEQ_LM"
    fits = "an encoder-decoder, such as BART or T5"

    def check_model(self, task: Task, config: Any, tokenizer: Any) -> None:
        task, name = generation_task(task), config.model_type
        if not getattr(config, "is_encoder_decoder", False):
            raise TapertuneError(
                f"task {task.name} is set up for encoder-decoders, such as BART or T5, and {name} is none: for a "
                "decoder set task.kind to causal_lm"
            )
        check_end_token(config, tokenizer)
        positions = getattr(config, "max_position_embeddings", None)
        sizes = {
            "max_length": task.max_length,
            "max_answer_length": task.max_answer_length,
            "generation.max_new_tokens": task.generating.max_new_tokens,
        }
        for setting, size in sizes.items():
            if positions is not None and size > positions:
                raise TapertuneError(f"task.{setting} is {size}; this model reads {positions} tokens")

    def encode(
        self, task: Task, examples: Sequence[Example], tokenizer: Any, max_length: int, *, train: bool
    ) -> Encoded:
        task = generation_task(task)
        rows: list[Feature] = []
        owners: list[int] = []
        targets: list[Feature | None] = []
        cut = answers_cut = left_out = 0
        for number, example in enumerate(examples):
            ids, shortened = _source(task, example, tokenizer, max_length)
            labels, too_long = _target(task, example, tokenizer) if "answer" in example else (None, False)
            answers_cut += too_long and labels is not None
            left_out += too_long and labels is None
            if train and labels is None:
                continue
            rows.append({"input_ids": ids, "labels": labels} if train else {"input_ids": ids})
            owners.append(number)
            targets.append(None if labels is None else {"input_ids": ids, "labels": labels})
            cut += shortened
        return Encoded(
            rows=rows,
            examples=examples,
            owners=owners,
            extras=[] if train else targets,
            truncated=cut,
            answers_cut=answers_cut,
            left_out=left_out,
        )

    def unfit(self, task: Task) -> str:
        own = generation_task(task)
        hint = "" if own.cut_answers else "; task.cut_answers keeps such rows and cuts the answers"
        return f"they are longer than task.max_answer_length ({own.max_answer_length} tokens){hint}"

    def collator(self, task: Task, tokenizer: Any, *, train: bool) -> Collator:
        return collator(tokenizer)

    def predict(self, task: Task, forward: Forward, encoded: Encoded) -> Predicted:
        answers = generate(generation_task(task), forward, encoded.rows, decoder=False)
        rows = [row for row in encoded.extras if row is not None]
        return Predicted(answers=answers, loss=mean_loss(forward, rows, shifted=False))


def _source(task: GenerationTask, example: Example, tokenizer: Any, max_length: int) -> tuple[list[int], bool]:
    """What the encoder reads, and whether it was cut; the tokens around a text (``</s>``) stay."""
    text = source_text(example, task.prompt_format, tokenizer)
    whole = list(tokenizer(text, verbose=False)["input_ids"])
    if len(whole) <= max_length:
        return whole, False
    before, after = around(tokenizer)
    room = max(1, max_length - len(before) - len(after))
    return [*before, *cut_ids(text_ids(text, tokenizer), room, task.prompt_cut), *after], True


def _target(task: GenerationTask, example: Example, tokenizer: Any) -> tuple[list[int] | None, bool]:
    """The answer's tokens, None if they are too many and may not be cut; and whether they were too many."""
    if example.get("reply", {}).get("tool_calls"):
        raise TapertuneError("an answer that calls tools is for decoders (task.kind: causal_lm)")
    whole = list(tokenizer(text_target=example["answer"], verbose=False)["input_ids"])
    if whole[-1] != tokenizer.eos_token_id:
        whole.append(tokenizer.eos_token_id)
    if len(whole) <= task.max_answer_length:
        return whole, False
    if not task.cut_answers:
        return None, True
    return [*whole[: task.max_answer_length - 1], tokenizer.eos_token_id], True
