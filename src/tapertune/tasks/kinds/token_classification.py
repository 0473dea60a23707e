"""A tag for each word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import TapertuneError
from .. import fields
from ..base import Task
from ..entities import has_prefixes, overlap
from .base import Collator, Encoded, Example, Feature, Forward, Kind, Outcome, Place, Predicted, Row, Scores
from .classification import class_number, found_labels, label_names

_IGNORED = -100
_CUT_OFF = "O"  # what words beyond the last token count as


class TokenClassification(Kind):
    """The first token of a word stands for it. An answer is the tags of an example's words, by name."""

    auto_class = "AutoModelForTokenClassification"
    task_type = "TOKEN_CLS"

    def prepare(self, task: Task, rows: Iterable[tuple[Place, Row]]) -> Task:
        if not task.labels:
            task = found_labels(task, _single(task, rows))
        if "f1" in task.metrics and not has_prefixes(task.labels):
            # Parts of speech and the like: there are no entities to find.
            task = replace(task, metrics=tuple(name for name in task.metrics if name != "f1") or ("accuracy",))
        return task

    def check(self, task: Task, row: Row, *, labelled: bool = True) -> Example:
        words = _list(row, task.text[0])
        if not all(isinstance(word, str) for word in words):
            raise fields.bad(task.text[0], words, "a list of words")
        example: Example = {"words": words}
        if labelled:
            tags = _list(row, task.label)
            if len(tags) != len(words):
                raise fields.BadField(f"there are {len(words)} {task.text[0]}, but {len(tags)} {task.label}")
            example["tags"] = [class_number(task, tag) for tag in tags]
        return example

    def check_split(self, task: Task, examples: Sequence[Example], name: str) -> None:
        tagged = (task.labels[tag] for example in examples for tag in example["tags"])
        if task.main_metric == "f1" and all(tag == "O" for tag in tagged):
            raise TapertuneError(f"{name} holds no entity: f1 cannot be computed")

    def config(self, task: Task) -> dict[str, Any]:
        return label_names(task)

    def check_model(self, task: Task, config: Any, tokenizer: Any) -> None:
        if not tokenizer.is_fast:
            raise TapertuneError("the model's tokenizer cannot tell which of its tokens belong to which word")

    def encode(
        self, task: Task, examples: Sequence[Example], tokenizer: Any, max_length: int, *, train: bool
    ) -> Encoded:
        words = [example["words"] for example in examples]
        parts = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
        rows: list[Feature] = []
        extras: list[dict[int, int]] = []
        for number, example in enumerate(examples):
            firsts = _first_tokens(parts.word_ids(number))
            row = {name: parts[name][number] for name in parts}
            if "tags" in example:
                row["labels"] = [_IGNORED] * len(row["input_ids"])
                for word, token in firsts.items():
                    row["labels"][token] = example["tags"][word]
            rows.append(row)
            extras.append(firsts)
        cut = sum(max(firsts, default=-1) + 1 < len(own) for firsts, own in zip(extras, words, strict=True))
        return Encoded(rows=rows, examples=examples, owners=list(range(len(rows))), extras=extras, truncated=cut)

    def collator(self, task: Task, tokenizer: Any, *, train: bool) -> Collator:
        from transformers import DataCollatorForTokenClassification

        return DataCollatorForTokenClassification(tokenizer)

    def predict(self, task: Task, forward: Forward, encoded: Encoded) -> Predicted:
        def tags(number: int, best: Any) -> list[str]:
            firsts, words = encoded.extras[number], range(len(encoded.examples[number]["words"]))
            return [task.labels[best[firsts[word]]] if word in firsts else _CUT_OFF for word in words]

        def step(numbers: list[int], batch: dict[str, Any]) -> Outcome:
            output = forward.model(**batch)
            best = output.logits.argmax(-1).cpu().numpy()
            found = [tags(number, row) for number, row in zip(numbers, best, strict=True)]
            tagged = int((batch["labels"] != _IGNORED).sum()) if "labels" in batch else 0
            return found, float(output.loss) * tagged if tagged else 0.0, tagged

        answers, loss = forward.run(encoded.rows, self.collator(task, forward.tokenizer, train=False), step)
        return Predicted(answers=answers, loss=loss)

    def score(self, task: Task, predicted: Predicted, examples: Sequence[Example]) -> Scores:
        golds = [[task.labels[tag] for tag in example["tags"]] for example in examples]
        pairs = list(zip(predicted.answers, golds, strict=True))
        right = [(sum(a == b for a, b in zip(ours, gold, strict=True)), len(gold)) for ours, gold in pairs]
        sums = {"accuracy": (np.array(right), _share), "f1": (np.array([overlap(*pair) for pair in pairs]), _f1)}
        metrics = {name: sums[name][1](sums[name][0].sum(0)) for name in task.metrics}
        counts, metric = sums[task.main_metric]
        return Scores(metrics=metrics, resample=lambda rows: metric(counts[rows].sum(0)))

    def shown(self, task: Task, answer: Any) -> dict[str, Any]:
        index = task.classes.index
        return {"prediction": [task.written_label(index[tag]) if tag in index else tag for tag in answer]}


def _share(counts: Any) -> float:
    return float(counts[0] / counts[1]) if counts[1] else 0.0


def _f1(counts: Any) -> float:
    both, ours, gold = counts
    return float(2 * both / (ours + gold)) if ours + gold else 0.0


def _list(row: Row, column: str) -> list[Any]:
    """A field's list; text (all that CSV has) is split at white space."""
    found = fields.value(row, column)
    if isinstance(found, str):
        found = found.split()
    if not isinstance(found, list) or not found:
        raise fields.bad(column, found, "a list with an entry a word")
    return found


def _single(task: Task, rows: Iterable[tuple[Place, Row]]) -> Iterable[tuple[Place, Row]]:
    for place, row in rows:
        found = row.get(task.label)
        for tag in found.split() if isinstance(found, str) else found if isinstance(found, list) else ():
            yield place, {task.label: tag}


def _first_tokens(words: list[int | None]) -> dict[int, int]:
    """The first token of each word that has one."""
    found: dict[int, int] = {}
    for token, word in enumerate(words):
        if word is not None:
            found.setdefault(word, token)
    return found
