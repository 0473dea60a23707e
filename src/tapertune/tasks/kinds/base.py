"""What a kind of task has to provide, and the values that pass between a kind and those who train and evaluate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..base import Task
from .sharing import gathered, share

if TYPE_CHECKING:
    import torch

Row = dict[str, Any]
Example = dict[str, Any]
Feature = dict[str, Any]
Collator = Callable[[list[Feature]], dict[str, Any]]
Place = str
Outcome = tuple[list[Any], float, int]  # a batch's answers; its sum of losses, and of how many; 0.0, 0 without
Step = Callable[[list[int], dict[str, Any]], Outcome]


@dataclass(kw_only=True)
class Encoded:
    """Encoded examples: a data set of unpadded features, in the order of the examples.

    Attributes:
        rows: what the model reads, a feature (input ids, labels ...) each: numbers or lists of whole numbers.
        examples: the checked rows that they come from.
        owners: the example of each feature. One example may have several (windows); for training it has none where its
            answer does not fit.
        extras: for each feature what only ``predict`` needs (offsets of tokens ...); empty where it needs nothing.
        truncated: how many examples lost text because they were longer than allowed.
        answers_cut: how many examples lost a part of their answer, which only some tasks allow.
        empty: how many examples have no text.
        left_out: how many examples have an answer that does not fit: for training they have no feature, for evaluation
            they are no part of the loss.
    """

    rows: list[Feature]
    examples: Sequence[Example]
    owners: list[int]
    extras: list[Any] = field(default_factory=list)
    truncated: int = 0
    answers_cut: int = 0
    empty: int = 0
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Feature:
        return self.rows[index]


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What a model answered.

    Attributes:
        answers: one for each example, in order, in whatever form ``score`` and ``shown`` of the same kind read.
        loss: the mean loss where the examples have labels, else None.
    """

    answers: list[Any]
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """Rows by class, in the order of the task's labels.

    Attributes:
        labels: the names.
        right: rows predicted to be of the class that are.
        predicted: all that are predicted to be.
        actual: all that are.
        confusion: rows by class (outer) and predicted class; None where a row has several, or there are many classes.
    """

    labels: tuple[str, ...]
    right: list[int]
    predicted: list[int]
    actual: list[int]
    confusion: list[list[int]] | None = None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The metrics of a split, and what the interval of the main one is computed from (exactly one of the two).

    Attributes:
        metrics: by name, in the order of ``task.metrics``; extra ones may follow.
        values: each example's value of the main metric, where the metric is their mean.
        resample: else the main metric of examples drawn by their numbers (an array of whole numbers).
        classes: what came of each class, of kinds that have such.
    """

    metrics: dict[str, float]
    values: list[float] | None = None
    resample: Callable[[Any], float] | None = None
    classes: ClassCounts | None = None


@dataclass(kw_only=True)
class Forward:
    """Runs a model over encoded rows without training it; ``predict`` of a kind is given one.

    In a run of several processes each takes every so-manieth batch, and all have the answers to all of them.
    """

    model: Any
    tokenizer: Any
    batch_size: int
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    progress: Callable[[int], None] = lambda rows: None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def run(
        self, rows: Sequence[Feature], collate: Collator, step: Step, batch_size: int | None = None
    ) -> tuple[list[Any], float | None]:
        """(the answers to all features in their order, the mean loss or None where no step found one).

        Batches hold features of like lengths, the longest first. They depend on the rows alone, so that the same rows
        meet in the same batch and sums have the same order, however many processes share them.

        Args:
            rows: the features.
            collate: makes batches of them.
            step: given the numbers of a batch's features and the batch on the model's device, with the model in
                evaluation mode and under ``no_grad``.
            batch_size: instead of the usual one.
        """
        size = batch_size or self.batch_size
        order = sorted(range(len(rows)), key=lambda number: (-len(rows[number]["input_ids"]), number))
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        first, processes = share(self.model)
        was_training = self.model.training
        self.model.eval()
        try:
            own = [(n, self._outcome(rows, batches[n], collate, step)) for n in range(first, len(batches), processes)]
        finally:
            self.model.train(was_training)
        outcomes = dict(gathered(own, processes))
        self.progress(len(rows) - sum(len(batches[number]) for number, _ in own))
        answers: list[Any] = [None] * len(rows)
        total, weight = 0.0, 0
        for number, numbers in enumerate(batches):
            found, loss, count = outcomes[number]
            total, weight = total + loss, weight + count
            for place, answer in zip(numbers, found, strict=True):
                answers[place] = answer
        return answers, total / weight if weight else None

    def _outcome(self, rows: Sequence[Feature], numbers: list[int], collate: Collator, step: Step) -> Outcome:
        import torch

        batch = collate([rows[number] for number in numbers])
        moved = {name: v.to(self.device) if hasattr(v, "to") else v for name, v in batch.items()}
        with torch.no_grad(), self.context():
            outcome = step(numbers, moved)
        self.progress(len(numbers))
        return outcome


class Kind(Protocol):
    """How tasks of one kind are read, encoded, trained and measured. Kinds are stateless; all they know is the task.

    The order of calls: ``prepare`` once with the training rows, then ``check`` for every row and ``check_split`` for
    each split to evaluate; ``check_model`` and ``config`` while the model is made; ``encode``; then training with
    ``collator(train=True)``, and for each evaluation ``predict`` and ``score``. ``tapertune predict`` calls ``check``
    and ``encode`` with rows that have no answers (``labelled=False``), then ``predict`` and ``shown``.

    A task with settings of its own is a frozen subclass of ``Task``; run files may set the fields that its
    ``settable`` names.

    Attributes:
        auto_class: name of the class in transformers whose ``from_pretrained`` makes the model.
        task_type: PEFT's name of it, such as ``SEQ_CLS``.
        fits: which models these are, for the message that one is none of them.
        trains_head: weights outside the base model (classifier, fresh pooler) train and are saved with an adapter.
            False where they come with the model (``lm_head``).
    """

    auto_class: str
    task_type: str
    fits: str = "an encoder, such as BERT, RoBERTa or DeBERTa"
    trains_head: bool = True

    def columns(self, task: Task, *, labelled: bool = True) -> tuple[str, ...]:
        """Columns that a table must have, those of the answer only when ``labelled``."""
        return (*task.text, task.label) if labelled else task.text

    def prepare(self, task: Task, rows: Iterable[tuple[Place, Row]]) -> Task:
        """The task with what only the training rows tell (the names of the classes). Rows may be many: iterate once.

        Raises:
            TapertuneError: the rows do not tell.
        """
        return task

    def check(self, task: Task, row: Row, *, labelled: bool = True) -> Example:
        """A row in the form that ``encode`` and ``score`` read: plain values that JSON can hold.

        Raises:
            BadField: the row cannot be used (see ``tasks.fields``; the caller adds file and line).
        """
        ...

    def check_split(self, task: Task, examples: Sequence[Example], name: str) -> None:
        """Can the metrics be computed of these examples?

        Raises:
            TapertuneError: no, such as a correlation with labels that are all alike.
        """

    def config(self, task: Task) -> dict[str, Any]:
        """Keywords for the model's config (number of labels ...)."""
        return {}

    def check_model(self, task: Task, config: Any, tokenizer: Any) -> None:
        """Does the base model's config fit the task?

        Raises:
            TapertuneError: no; the message says which models do.
        """

    def encode(
        self, task: Task, examples: Sequence[Example], tokenizer: Any, max_length: int, *, train: bool
    ) -> Encoded:
        """Features of checked rows. Loss is where labels are not -100; every feature has ``input_ids``.

        Args:
            train: for training; else for ``predict`` (decoders then read the prompt alone). Examples may lack answers
                unless it is for training.
        """
        ...

    def metric_names(self, task: Task) -> tuple[str, ...]:
        """Names of all that ``score`` finds."""
        return task.metrics

    def unfit(self, task: Task) -> str:
        """Why an answer does not fit, for kinds whose ``encode`` leaves examples out or cuts answers."""
        return f"their answers do not fit into task.max_length ({task.max_length} tokens)"

    def collator(self, task: Task, tokenizer: Any, *, train: bool) -> Collator:
        """Pads features to their longest. The padding side is the kind's business: set by batch, not kept."""
        ...

    def training_loss(self, task: Task, train: Encoded | None) -> Any:
        """A loss to train by in place of the model's own, as Trainer's ``compute_loss_func``; None for the model's own.

        Args:
            train: the training rows; None where they are not known beforehand.

        Raises:
            TapertuneError: it needs them.
        """
        return None

    def predict(self, task: Task, forward: Forward, encoded: Encoded) -> Predicted:
        """The model's answers, one an example, from what ``encode(train=False)`` returned."""
        ...

    def score(self, task: Task, predicted: Predicted, examples: Sequence[Example]) -> Scores:
        """Metrics of answers against the examples' own."""
        ...

    def answer_columns(self, task: Task) -> tuple[str, ...]:
        """The fields of ``shown``."""
        return ("prediction",)

    def shown(self, task: Task, answer: Any) -> dict[str, Any]:
        """An answer as the file that ``tapertune predict`` writes has it: fields that JSON can hold."""
        ...
