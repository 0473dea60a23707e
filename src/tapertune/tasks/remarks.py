"""What is likely a slip in data that can be used all the same: labels that are alike, texts for labels, rows that are
trained on and evaluated on."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .base import Task
from .classes import alike
from .fields import short
from .kinds import Example

_NAMED = 3  # pairs of labels
_FEWEST = 10  # rows of which anything can be said
_WORDS = 8  # a label of more is a text, perhaps


def label_remarks(task: Task, rows: int | None) -> list[str]:
    """Of the class names.

    Args:
        task: with its labels.
        rows: in training; None if nobody has counted them.
    """
    found: list[str] = []
    if pairs := alike(task.labels):
        named = ", ".join(f"{short(one)} and {short(other)}" for one, other in pairs[:_NAMED])
        more = f" and {len(pairs) - _NAMED} more pairs" if len(pairs) > _NAMED else ""
        found.append(
            f"classes that differ only in white space, in case or as a number is written: {named}{more}. They are kept"
            " apart, as the file has them"
        )
    if not task.values:  # they were declared
        return found
    where = f"column {task.label!r}"
    if task.kind == "classification" and task.label in task.text:
        found.append(f"{where} is both the text and the label")
    many = task.kind == "classification" and rows is not None and rows >= _FEWEST and 2 * len(task.labels) > rows
    if many:
        found.append(f"{where} holds {len(task.labels)} different values in {rows} rows: is it the label?")
    elif long := next((name for name in task.labels if len(name.split()) > _WORDS), None):
        found.append(f"{where} holds texts, such as {short(long)}: is it the label?")
    return found


def overlap_remarks(
    train: str, trained: Sequence[Example] | None, evaluation: Mapping[str, tuple[str, Sequence[Example]]]
) -> list[str]:
    """Of splits to evaluate whose rows are those of training.

    Args:
        train: name of the training file.
        trained: its rows, None if they are not in memory.
        evaluation: by split the name of its file and its rows.
    """
    found: list[str] = []
    known = {_digest(example) for example in trained or ()}
    for split, (name, examples) in evaluation.items():
        count = sum(_digest(example) in known for example in examples) if known else 0
        if _same_file(train, name):
            same = "the training file itself" if Path(train).samefile(name) else "the same as the training file"
            found.append(f"{split} is {same} ({name}): its score says nothing of other rows")
        elif 2 * count > len(examples):
            found.append(f"{split}: {count} of {len(examples)} rows of {name} are in {train} too")
    return found


def _digest(example: Any) -> bytes:
    return blake2b(json.dumps(example, sort_keys=True).encode(), digest_size=8).digest()


def _same_file(one: str, other: str) -> bool:
    paths = Path(one), Path(other)
    try:
        if not (paths[0].is_file() and paths[1].is_file()):
            return False
        return paths[0].samefile(paths[1]) or filecmp.cmp(*paths, shallow=False)
    except (OSError, ValueError):
        return False
