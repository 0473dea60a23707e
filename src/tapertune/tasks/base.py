"""What a task is. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from .classes import Classes, Label


@dataclass(frozen=True, kw_only=True)
class Task:
    """A declaration, no code: where a task's fields lie and what is measured. Its kind knows what to do with them.

    Kinds with more settings than these have a subclass of it. ``settable`` names the fields that a run file may change.

    >>> Task(name="cola", text=("sentence",), labels=("unacceptable", "acceptable"), metrics=("mcc",)).main_metric
    'mcc'
    """

    name: str = field(metadata={"help": "the name in run files"})
    title: str = field(default="", metadata={"help": "the data set's full name"})
    text: tuple[str, ...] = field(metadata={"help": "the columns of the text"})
    label: str = field(default="label", metadata={"help": "the column of the label"})
    kind: str = field(default="classification", metadata={"help": "a name in tasks.kinds.KINDS"})
    labels: tuple[str, ...] = field(
        default=(), metadata={"help": "class names by number; empty: the values found in the training file, sorted"}
    )
    values: tuple[Label, ...] = field(
        default=(),
        metadata={"help": "the classes found in the training file, as they are written there: text, number or truth"},
    )
    metrics: tuple[str, ...] = field(metadata={"help": "metric names; the first is the main one"})
    separator: str = field(default="|", metadata={"help": "between the classes of a text that may have several"})
    class_weights: str | Mapping[str, float] | None = field(
        default=None, metadata={"help": "how much rows of a class count in training: balanced, or factors by class"}
    )
    scale: float = field(default=1.0, metadata={"help": "labels are divided by it for training (regression)"})
    low: float | None = field(default=None, metadata={"help": "smallest label allowed (regression)"})
    high: float | None = field(default=None, metadata={"help": "largest label allowed (regression)"})
    hub: tuple[str, str] | None = field(default=None, metadata={"help": "data set and configuration on the hub"})
    files: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict, metadata={"help": "further names that a split's file may have in a folder"}
    )
    evaluation: tuple[str, ...] = field(
        default=("validation",), metadata={"help": "the splits to evaluate; the first gives the score"}
    )

    max_length: int = field(default=128, metadata={"help": "tokens at which texts are cut, unless the run file says"})

    settable: ClassVar[tuple[str, ...]] = ()

    @property
    def main_metric(self) -> str:
        return self.metrics[0]

    @cached_property
    def classes(self) -> Classes:
        """``labels``, to be looked up."""
        return Classes.of(self.labels)

    def written_label(self, number: int) -> Label:
        """A class as the training file has it, else its name."""
        return self.values[number] if self.values else self.labels[number]
