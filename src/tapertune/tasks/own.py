"""Tasks over a user's own files: name the columns and train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import bad_value, unknown
from .base import Task
from .class_weights import check_weights

CLASS_METRICS = ("accuracy", "macro_f1", "weighted_f1", "balanced_accuracy", "mcc", "f1")
LABEL_METRICS = ("micro_f1", "macro_f1", "weighted_f1", "subset_accuracy")


def text_classification(
    *,
    text: str = "text",
    text_pair: str | None = None,
    label: str = "label",
    labels: Sequence[str] = (),
    metrics: Sequence[str] | None = None,
    multi_label: bool = False,
    label_separator: str = "|",
    class_weights: str | Mapping[str, float] | None = None,
) -> Task:
    """A class for each text, or each pair of texts; or any number of classes for each.

    Args:
        text: the column of the text.
        text_pair: the column of a second text, if there is one.
        label: the column of the class: a name, or a whole number.
        labels: the class names in order; without them, the values that the training file holds, sorted.
        metrics: what is measured, the score first: accuracy, macro_f1 (rare classes count as much as others),
            weighted_f1, balanced_accuracy, mcc, or f1 (of the second of two classes). Of several classes a text:
            micro_f1, macro_f1, weighted_f1, or subset_accuracy (all classes of a text right).
        multi_label: a text has any number of classes: a list, or text with separators between them.
        label_separator: what stands between the classes of a text, where they are text.
        class_weights: how much rows of a class count in training: balanced (rare classes as much as others), or
            factors by class name; of several classes a text, how much their being there counts. None: all alike.

    Raises:
        TapertuneError: an unknown metric (the nearest is named), or none; a wrong weight.

    >>> text_classification(text="review", label="stars").text
    ('review',)
    >>> text_classification(label="topics", multi_label=True).metrics
    ('micro_f1', 'macro_f1', 'subset_accuracy')
    """
    known = LABEL_METRICS if multi_label else CLASS_METRICS
    if metrics is None:
        metrics = ("micro_f1", "macro_f1", "subset_accuracy") if multi_label else ("accuracy",)
    if isinstance(metrics, str) or not metrics:
        raise bad_value("task.metrics", metrics, f"a list of {', '.join(known)}")
    for name in metrics:
        if name not in known:
            raise unknown("metric in task.metrics", name, known)
    if not label_separator.strip():
        raise bad_value("task.label_separator", label_separator, "what stands between classes, such as | or ;")
    check_weights(class_weights, labels)
    return Task(
        name="text_classification",
        text=_columns(text, text_pair),
        label=label,
        kind="multi_label_classification" if multi_label else "classification",
        labels=tuple(labels),
        metrics=tuple(dict.fromkeys(metrics)),
        separator=label_separator,
        class_weights=class_weights,
    )


def regression(*, text: str = "text", text_pair: str | None = None, label: str = "label", scale: float = 1.0) -> Task:
    """A number for each text, or each pair of texts.

    Args:
        text: the column of the text.
        text_pair: the column of a second text, if there is one.
        label: the column of the number.
        scale: labels are divided by it for training. Labels far from 1 can make training collapse.

    >>> regression(text="a", text_pair="b", scale=5).main_metric
    'pearson'
    """
    return Task(
        name="regression",
        text=_columns(text, text_pair),
        label=label,
        kind="regression",
        metrics=("pearson", "spearman"),
        scale=scale,
    )


def token_classification(*, tokens: str = "tokens", tags: str = "tags", labels: Sequence[str] = ()) -> Task:
    """A tag for each word: entities (tags such as B-PER, scored by entity) or parts of speech and the like.

    Args:
        tokens: the column of the words: a list, or text with a space between words.
        tags: the column of their tags: names, or whole numbers.
        labels: the tags' names in order; without them, the values that the training file holds, sorted.

    >>> token_classification(tags="ner_tags").metrics
    ('f1', 'accuracy')
    """
    return Task(
        name="token_classification",
        text=(tokens,),
        label=tags,
        kind="token_classification",
        labels=tuple(labels),
        metrics=("f1", "accuracy"),
    )


def _columns(text: str, text_pair: str | None) -> tuple[str, ...]:
    return (text,) if text_pair is None else (text, text_pair)
