"""Kinds of task, by name. A kind's file is imported when it is asked for, so that listing tasks needs no torch.

To add one: write a class that follows ``Kind`` (it may inherit from it for the defaults) and name it here.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from ...errors import unknown
from .base import Encoded, Example, Forward, Kind, Predicted, Scores

# name -> module in this package and class in it
KINDS: dict[str, tuple[str, str]] = {
    "classification": ("classification", "Classification"),
    "multi_label_classification": ("multi_label", "MultiLabel"),
    "regression": ("regression", "Regression"),
    "token_classification": ("token_classification", "TokenClassification"),
    "question_answering": ("question_answering", "QuestionAnswering"),
    "causal_lm": ("causal_lm", "CausalLM"),
    "seq2seq": ("seq2seq", "Seq2Seq"),
}


@cache
def get_kind(name: str) -> Kind:
    """The kind of that name.

    Raises:
        TapertuneError: there is none; the message names the nearest.
    """
    if name not in KINDS:
        raise unknown("kind of task", name, KINDS)
    module, class_name = KINDS[name]
    return getattr(import_module(f".{module}", __name__), class_name)()


__all__ = ["KINDS", "Encoded", "Example", "Forward", "Kind", "Predicted", "Scores", "get_kind"]
