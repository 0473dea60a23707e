"""Answers that are spans of a context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import TapertuneError
from .. import fields
from ..base import Task
from ..spans import Span, Window, best_span, positions, window
from ..squad import QuestionTask
from ..squad_metrics import best, best_threshold, exact_match, f1, f1_or_none
from .base import Collator, Encoded, Example, Feature, Forward, Kind, Outcome, Predicted, Row, Scores

_POSITIONS = ("start_positions", "end_positions")


class QuestionAnswering(Kind):
    """Scores for the first and the last token of the answer. An answer is a ``Span``."""

    auto_class = "AutoModelForQuestionAnswering"
    task_type = "QUESTION_ANS"

    def check(self, task: Task, row: Row, *, labelled: bool = True) -> Example:
        question, context = (fields.text(row, column) for column in task.text)
        for column, value in zip(task.text, (question, context), strict=True):
            if not value.strip():
                raise fields.bad(column, value, "text with words in it")
        example: Example = {"question": question.strip(), "context": context}
        if labelled:
            golds = _answers(task, fields.value(row, task.label), context)
            if not golds and not _own(task).unanswerable:
                raise fields.bad(task.label, row[task.label], "at least one answer")
            example |= {"golds": [text for text, _ in golds], "start": golds[0][1] if golds else None}
        return example

    def check_model(self, task: Task, config: Any, tokenizer: Any) -> None:
        if not tokenizer.is_fast:
            raise TapertuneError("the model's tokenizer cannot tell where in the text its tokens come from")

    def encode(
        self, task: Task, examples: Sequence[Example], tokenizer: Any, max_length: int, *, train: bool
    ) -> Encoded:
        own = _own(task)
        room = max_length - own.max_question - tokenizer.num_special_tokens_to_add(pair=True)
        if own.stride >= room:
            allowed = f"less than {room} (max_length {max_length} less a question of {own.max_question} tokens)"
            raise TapertuneError(f"task.stride is {own.stride}; it must be {allowed}")
        questions, cut = _cut([example["question"] for example in examples], tokenizer, own.max_question)
        parts = tokenizer(
            questions,
            [example["context"] for example in examples],
            truncation="only_second",
            max_length=max_length,
            stride=own.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        owners: list[int] = parts.pop("overflow_to_sample_mapping")
        offsets = parts.pop("offset_mapping")
        rows: list[Feature] = []
        windows: list[Window] = []
        for number, owner in enumerate(owners):
            row = {name: parts[name][number] for name in parts}
            place = window(offsets[number], parts.sequence_ids(number), _null(tokenizer, row["input_ids"]))
            if "golds" in examples[owner]:
                row |= zip(_POSITIONS, _target(examples[owner], place), strict=True)
            rows.append(row)
            windows.append(place)
        encoded = Encoded(rows=rows, examples=examples, owners=owners, extras=windows, truncated=cut)
        return _answerable(encoded) if train else encoded

    def metric_names(self, task: Task) -> tuple[str, ...]:
        best = [f"best_{name}{end}" for name in ("f1", "em") for end in ("", "_threshold")]
        return (*task.metrics, *(best if _own(task).unanswerable else ()))

    def unfit(self, task: Task) -> str:
        return f"no window of task.max_length ({task.max_length} tokens) holds their answer whole"

    def collator(self, task: Task, tokenizer: Any, *, train: bool) -> Collator:
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    def predict(self, task: Task, forward: Forward, encoded: Encoded) -> Predicted:
        def step(numbers: list[int], batch: dict[str, Any]) -> Outcome:
            output = forward.model(**batch)
            starts, ends = (logits.float().cpu().numpy() for logits in (output.start_logits, output.end_logits))
            scores = list(zip(starts, ends, strict=True))
            labelled = _POSITIONS[0] in batch
            return (scores, float(output.loss) * len(numbers), len(numbers)) if labelled else (scores, 0.0, 0)

        scores, loss = forward.run(encoded.rows, self.collator(task, forward.tokenizer, train=False), step)
        found: list[list[tuple[Window, Any, Any]]] = [[] for _ in encoded.examples]
        for owner, place, (starts, ends) in zip(encoded.owners, encoded.extras, scores, strict=True):
            found[owner].append((place, starts, ends))
        pairs = zip(encoded.examples, found, strict=True)
        answers = [best_span(example["context"], windows, _own(task).max_answer) for example, windows in pairs]
        return Predicted(answers=answers, loss=loss)

    def score(self, task: Task, predicted: Predicted, examples: Sequence[Example]) -> Scores:
        own = _own(task)
        golds = [example["golds"] for example in examples]
        texts = [_text(own, answer) for answer in predicted.answers]
        word_f1 = f1_or_none if own.unanswerable else f1

        def values(metric: Any, answers: list[str]) -> list[float]:
            pairs = zip(answers, golds, strict=True)
            return [best(metric, answer, right, unanswerable=own.unanswerable) for answer, right in pairs]

        by_name = {"f1": values(word_f1, texts), "em": values(exact_match, texts)}
        metrics = {name: float(np.mean(by_name[name])) for name in task.metrics}
        if own.unanswerable:
            spans, differences = [a.text for a in predicted.answers], [a.difference for a in predicted.answers]
            answerable = [bool(right) for right in golds]
            for name, metric in (("f1", word_f1), ("em", exact_match)):
                value, threshold = best_threshold(values(metric, spans), differences, answerable)
                metrics |= {f"best_{name}": value, f"best_{name}_threshold": threshold}
        return Scores(metrics=metrics, values=by_name[task.main_metric])

    def answer_columns(self, task: Task) -> tuple[str, ...]:
        return "prediction", *(["null_score_difference"] if _own(task).unanswerable else [])

    def shown(self, task: Task, answer: Any) -> dict[str, Any]:
        shown: dict[str, Any] = {"prediction": _text(_own(task), answer)}
        return shown | {"null_score_difference": round(answer.difference, 6)} if _own(task).unanswerable else shown


def _own(task: Task) -> QuestionTask:
    assert isinstance(task, QuestionTask), "tasks of this kind are declared as QuestionTask"
    return task


def _text(task: QuestionTask, answer: Span) -> str:
    return "" if task.unanswerable and answer.difference > task.threshold else answer.text


def _answerable(encoded: Encoded) -> Encoded:
    """Without the examples whose answer is whole in no window: they would teach that there is none."""
    found = {
        owner
        for row, owner, place in zip(encoded.rows, encoded.owners, encoded.extras, strict=True)
        if encoded.examples[owner]["start"] is None or row[_POSITIONS[0]] != place.null
    }
    kept = [number for number, owner in enumerate(encoded.owners) if owner in found]
    return Encoded(
        rows=[encoded.rows[number] for number in kept],
        examples=encoded.examples,
        owners=[encoded.owners[number] for number in kept],
        extras=[encoded.extras[number] for number in kept],
        truncated=encoded.truncated,
        left_out=len(encoded.examples) - len(found),
    )


def _answers(task: Task, value: Any, context: str) -> list[tuple[str, int]]:
    """Answers with their first characters, from ``{"text": [..], "answer_start": [..]}`` or a list of single ones."""
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
    elif isinstance(value, list) and all(isinstance(one, dict) for one in value):
        texts, starts = ([one.get(name) for one in value] for name in ("text", "answer_start"))
    else:
        texts, starts = None, None
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise fields.bad(task.label, value, 'answers such as {"text": ["Rome"], "answer_start": [12]}')
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip() or not isinstance(start, int) or isinstance(start, bool):
            raise fields.bad(task.label, value, "answers of text with whole numbers as their first characters")
        if start < 0 or context[start : start + len(text)] != text:
            raise fields.bad(
                task.label, value, f"what the context has there; at {start} it does not have {fields.short(text)}"
            )
    # Tokens do not hold the white space around them, so that an answer with some would be found in none.
    pairs = zip(texts, starts, strict=True)
    return [(text.strip(), start + len(text) - len(text.lstrip())) for text, start in pairs]


def _cut(questions: list[str], tokenizer: Any, most: int) -> tuple[list[str], int]:
    """Questions of at most so many tokens, and how many had more."""
    parts = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    short, cut = list(questions), 0
    for number, offsets in enumerate(parts["offset_mapping"]):
        if len(offsets) > most:
            short[number], cut = questions[number][: offsets[most - 1][1]], cut + 1
    return short, cut


def _null(tokenizer: Any, ids: list[int]) -> int:
    """The token that stands for no answer: the classification token, or the first where the model has none."""
    return ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0


def _target(example: Example, place: Window) -> tuple[int, int]:
    if example["start"] is None:
        return place.null, place.null
    return positions(place, example["start"], example["start"] + len(example["golds"][0]))
