"""What kinds share whose answers are generated: rows, loss, generation and scores. Decoders and encoder-decoders differ
in what they read and where it is padded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...errors import TapertuneError, bad_value
from .. import fields
from ..answers import final_answer, is_answer
from ..base import Task
from ..conversations import conversation
from ..generation import GenerationTask
from ..prompts import IGNORED, NEXT_TURN
from ..text_metrics import TEXT_METRICS
from .base import Collator, Example, Feature, Forward, Kind, Outcome, Predicted, Row, Scores
from .classification import class_number

_LOGITS = 2**27  # a batch whose loss is computed makes at most so many numbers (half a gigabyte)


def generation_task(task: Task) -> GenerationTask:
    """The task with its settings for generation.

    Raises:
        TapertuneError: it has none.
    """
    if not isinstance(task, GenerationTask):
        raise TapertuneError(f"task {task.name!r} has no answers to generate: task.kind does not fit it")
    return task


class Generated(Kind):
    """Answers are texts."""

    trains_head = False

    def columns(self, task: Task, *, labelled: bool = True) -> tuple[str, ...]:
        reference = generation_task(task).reference
        answers = (task.label, *([reference] if reference else []))
        return tuple(dict.fromkeys((*task.text, *(answers if labelled else ()))))

    def check(self, task: Task, row: Row, *, labelled: bool = True) -> Example:
        task = generation_task(task)
        if task.conversation:
            example = conversation(task, row, labelled=labelled)
            if "reference" in example:
                _check_reference(task, example)
            return example
        example: Example = _asked(task, row)
        if labelled:
            example["answer"] = _answer(task, row)
            example["reference"] = _reference(task, row) if task.reference else example["answer"]
            _check_reference(task, example)
        return example

    def score(self, task: Task, predicted: Predicted, examples: Sequence[Example]) -> Scores:
        pairs = [(answer, example["reference"]) for answer, example in zip(predicted.answers, examples, strict=True)]
        values = {name: [TEXT_METRICS[name](*pair) for pair in pairs] for name in task.metrics}
        means = {name: sum(found) / len(found) for name, found in values.items()}
        return Scores(metrics=means, values=values[task.main_metric])

    def answer_columns(self, task: Task) -> tuple[str, ...]:
        return "prediction", *(["prediction_number"] if "answer_accuracy" in task.metrics else [])

    def shown(self, task: Task, answer: Any) -> dict[str, Any]:
        if "answer_accuracy" not in task.metrics:
            return {"prediction": answer}
        number = final_answer(answer)
        return {"prediction": answer, "prediction_number": None if number is None else float(number)}


def _asked(task: GenerationTask, row: Row) -> Example:
    text = _filled(task.text[0], fields.text(row, task.text[0]))
    context = ""
    if task.context is not None and row.get(task.context) is not None:
        context = fields.text(row, task.context)
    if task.prompt_format == "plain":
        joined = f"{text}\n{context}" if context else text
        return {"instruction": f"{task.prefix}{joined}{task.suffix}", "context": ""}
    if task.instruction:
        return {"instruction": task.instruction, "context": text.strip()}
    return {"instruction": text.strip(), "context": context.strip()}


def _answer(task: GenerationTask, row: Row) -> str:
    if task.labels:
        return task.labels[class_number(task, fields.value(row, task.label))]
    answer = _filled(task.label, fields.text(row, task.label))
    return answer if task.prompt_format == "plain" else answer.strip()


def _filled(column: str, text: str) -> str:
    if not text.strip():
        raise fields.bad(column, text, "text that is not empty")
    return text


def _reference(task: GenerationTask, row: Row) -> str:
    column = task.reference or task.label
    value = fields.value(row, column)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return _filled(column, str(value))
    raise fields.bad(column, value, "text or a number")


def _check_reference(task: GenerationTask, example: Example) -> None:
    if "answer_accuracy" in task.metrics and not is_answer(example["reference"]):
        raise fields.bad(
            task.reference or task.label, example["reference"], "an answer with a number in it, or a letter from A to E"
        )


def padded(features: list[Feature], tokenizer: Any, names: dict[str, int], *, left: bool = False) -> dict[str, Any]:
    """A batch: each named list padded with its number to the longest of the batch."""
    import torch

    batch: dict[str, Any] = {}
    for name, filler in names.items():
        if name not in features[0]:
            continue
        longest = max(len(feature[name]) for feature in features)
        rows = []
        for feature in features:
            fill = [filler] * (longest - len(feature[name]))
            rows.append([*fill, *feature[name]] if left else [*feature[name], *fill])
        batch[name] = torch.tensor(rows, dtype=torch.long)
    return batch


def pad_id(tokenizer: Any) -> int:
    """What input ids are padded with; the attention mask hides it."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def collator(tokenizer: Any, *, left: bool = False) -> Collator:
    """Input ids, mask and labels, padded to the longest of the batch."""
    names = {"input_ids": pad_id(tokenizer), "attention_mask": 0, "labels": IGNORED}

    def collate(features: list[Feature]) -> dict[str, Any]:
        masked = [{**feature, "attention_mask": [1] * len(feature["input_ids"])} for feature in features]
        return padded(masked, tokenizer, names, left=left)

    return collate


def mean_loss(forward: Forward, rows: list[Feature], *, shifted: bool) -> float | None:
    """The loss of an answer's token, averaged over all answers' tokens; None without rows.

    Args:
        shifted: the model predicts label ``i`` from the ids before it, so that the first label counts for nothing.
    """
    if not rows:
        return None
    quiet = replace(forward, progress=lambda _: None)
    longest = max(len(row["labels"]) for row in rows)
    vocabulary = forward.model.get_input_embeddings().num_embeddings
    size = loss_rows(forward.batch_size, longest, vocabulary)

    def step(numbers: list[int], batch: dict[str, Any]) -> Outcome:
        labels = batch["labels"][:, 1:] if shifted else batch["labels"]
        tokens = int((labels != IGNORED).sum())
        return [None] * len(numbers), float(forward.model(**batch).loss) * tokens, tokens

    return quiet.run(rows, collator(forward.tokenizer), step, size)[1]


def loss_rows(size: int, longest: int, vocabulary: int) -> int:
    """Rows of a batch whose loss is computed, of at most so many: fewer where they are long.

    >>> loss_rows(64, 100, 50_000), loss_rows(64, 8, 1000)
    (26, 64)
    """
    return max(1, min(size, _LOGITS // (longest * vocabulary)))


def generate(task: GenerationTask, forward: Forward, rows: list[Feature], *, decoder: bool) -> list[str]:
    """The model's answer to each row."""
    config = generation_config(task, forward)
    size = max(1, forward.batch_size // task.generating.num_beams)

    def step(numbers: list[int], batch: dict[str, Any]) -> Outcome:
        ids = forward.model.generate(**batch, generation_config=config)
        new = ids[:, batch["input_ids"].shape[1] :] if decoder else ids
        texts = forward.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [trimmed(task, text) for text in texts], 0.0, 0

    return forward.run(rows, collator(forward.tokenizer, left=decoder), step, size)[0]


def trimmed(task: GenerationTask, text: str) -> str:
    """The answer alone: a model that was not trained to stop goes on with instructions of its own."""
    return (text.partition(NEXT_TURN)[0] if task.prompt_format == "alpaca" else text).strip()


def generation_config(task: GenerationTask, forward: Forward) -> Any:
    """The model's own settings of special tokens, with the task's of everything else and without sampling."""
    from transformers import GenerationConfig

    own = copy.deepcopy(getattr(forward.model, "generation_config", None)) or GenerationConfig()
    special = ("bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
    kept = {name: getattr(own, name) for name in special if getattr(own, name, None) is not None}
    ends = kept.get("eos_token_id", [])
    ends = dict.fromkeys([*(ends if isinstance(ends, list) else [ends]), forward.tokenizer.eos_token_id])
    kept["eos_token_id"] = [number for number in ends if number is not None]
    return GenerationConfig(
        **kept, pad_token_id=pad_id(forward.tokenizer), do_sample=False, **task.generating.keywords()
    )


def check_end_token(config: Any, tokenizer: Any) -> None:
    """Generation has to stop somewhere.

    Raises:
        TapertuneError: the tokenizer has no end token, or one that the model has no embedding of.
    """
    token, number = tokenizer.eos_token, tokenizer.eos_token_id
    known = getattr(config, "vocab_size", None)
    if number is None:
        raise bad_value("the model's tokenizer: eos_token", token, "the token that ends an answer, such as '</s>'")
    if known is not None and number >= known:
        allowed = f"one of the {known} tokens that the model knows"
        raise bad_value("the model's tokenizer: eos_token", f"{token} (number {number})", allowed)
