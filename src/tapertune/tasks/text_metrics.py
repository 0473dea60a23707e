"""What a written answer is worth beside its reference. Importing this imports neither torch nor rouge-score."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from .answers import is_right

TextMetric = Callable[[str, str], float]
_ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def answer_accuracy(output: str, reference: str) -> float:
    """1 where the output ends up with the reference's number."""
    return float(is_right(output, reference))


def exact_match(output: str, reference: str) -> float:
    """1 where the texts are the same but for case and white space."""
    return float(" ".join(output.lower().split()) == " ".join(reference.lower().split()))


@lru_cache(maxsize=8192)
def rouge(output: str, reference: str) -> dict[str, float]:
    """F-measures of an output by rouge-score, words stemmed; from 0 to 1.

    >>> rouge("the cat sat", "the cat ran")["rouge2"]
    0.5
    """
    scores = _scorer().score(reference, output)
    return {name: float(scores[name].fmeasure) for name in _ROUGE}


@cache
def _scorer() -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(list(_ROUGE), use_stemmer=True)


def _f_measure(name: str) -> TextMetric:
    def f_measure(output: str, reference: str) -> float:
        return rouge(output, reference)[name]

    f_measure.__doc__ = f"F-measure of {name}, words stemmed."
    return f_measure


# Each is a row's value; a split's is their mean.
TEXT_METRICS: dict[str, TextMetric] = {
    "answer_accuracy": answer_accuracy,
    "exact_match": exact_match,
    **{name: _f_measure(name) for name in _ROUGE},
}
