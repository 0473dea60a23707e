"""SQuAD 1.1 and 2.0 (Rajpurkar et al., 2016, arXiv:1606.05250; 2018, arXiv:1806.03822): the answer is a span of the
context, or in 2.0 that there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .base import Task

# As the data set's authors name their files.
_FILES = {version: {"train": (f"train-{version}",), "validation": (f"dev-{version}",)} for version in ("v1.1", "v2.0")}


@dataclass(frozen=True, kw_only=True)
class QuestionTask(Task):
    """Questions about contexts. ``text`` holds the columns of question and context, ``label`` that of the answers.

    Contexts longer than ``max_length`` are read in windows that overlap by ``stride`` tokens.
    """

    kind: str = "question_answering"
    max_length: int = 384
    stride: int = field(default=128, metadata={"help": "tokens that neighbouring windows share"})
    max_question: int = field(default=64, metadata={"help": "tokens at which questions are cut"})
    max_answer: int = field(default=30, metadata={"help": "longest answer in tokens"})
    unanswerable: bool = field(default=False, metadata={"help": "some questions have no answer (2.0)"})
    threshold: float = field(
        default=0.0, metadata={"help": "no answer is given where its score exceeds the best span's by more than this"}
    )

    settable: ClassVar[tuple[str, ...]] = ("stride", "max_question", "max_answer", "threshold")


def question_answering(
    *,
    question: str = "question",
    context: str = "context",
    answers: str = "answers",
    unanswerable: bool = True,
    stride: int = 128,
    max_question: int = 64,
    max_answer: int = 30,
    threshold: float = 0.0,
) -> QuestionTask:
    """Spans of a user's own contexts, in SQuAD's layout.

    Args:
        question: the column of the question.
        context: the column of the text that holds the answer.
        answers: the column of the answers: ``{"text": [...], "answer_start": [...]}``.
        unanswerable: some questions have no answer: their lists are empty.
        stride: tokens that neighbouring windows of a long context share.
        max_question: tokens at which questions are cut.
        max_answer: longest answer in tokens.
        threshold: no answer is given where its score exceeds the best span's by more than this.

    >>> question_answering(context="passage").text
    ('question', 'passage')
    """
    return QuestionTask(
        name="question_answering",
        files=_FILES["v2.0" if unanswerable else "v1.1"],
        text=(question, context),
        label=answers,
        metrics=("f1", "em"),
        unanswerable=unanswerable,
        stride=stride,
        max_question=max_question,
        max_answer=max_answer,
        threshold=threshold,
    )


SQUAD = (
    QuestionTask(
        name="squad",
        title="Stanford Question Answering Dataset 1.1",
        text=("question", "context"),
        label="answers",
        metrics=("f1", "em"),
        hub=("rajpurkar/squad", ""),
        files=_FILES["v1.1"],
    ),
    QuestionTask(
        name="squad_v2",
        title="Stanford Question Answering Dataset 2.0",
        text=("question", "context"),
        label="answers",
        metrics=("f1", "em"),
        hub=("rajpurkar/squad_v2", ""),
        files=_FILES["v2.0"],
        unanswerable=True,
    ),
)
