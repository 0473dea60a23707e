"""Training rows packed into longer ones, for models that keep them apart."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from ..errors import TapertuneError
from ..tasks import Task
from ..tasks.generation import GenerationTask
from ..tasks.kinds import Encoded
from ..tasks.packing import collator, joined, packed
from .suppress_logging import suppress_logging

_LENGTHS = ((7, 5, 9), (6, 4))  # of the rows that are compared, in two packed ones
_LARGEST = 2e-2  # difference of logits, as a part of the largest of them; rows that see each other are far above


def pack(task: Task, encoded: Encoded, model: Any, rows: int) -> Encoded:
    """The training rows, packed where the task says so.

    Args:
        task: the run's.
        encoded: its training rows.
        model: which is to read them; its logits are compared.
        rows: of a batch.

    Raises:
        TapertuneError: the model lets a row see what stands before it in a packed one.
    """
    if not is_packed(task):
        return encoded
    reason = why_not(model, rows)
    if reason is not None:
        raise TapertuneError(f"task.packing is True, and {model.config.model_type} {reason}: leave it out")
    return packed(encoded, task.max_length)


def is_packed(task: Task) -> bool:
    """Whether a task's training rows are packed."""
    return isinstance(task, GenerationTask) and task.packing


def why_not(model: Any, batch: int) -> str | None:
    """Why packed rows would not be what each is by itself, found by comparing logits; None where they are.

    Args:
        model: with or without an adapter; its mode is afterwards as it was. ``config.use_cache`` is off from then on: a
            model that keeps keys for tokens to come keeps no rows apart.
        batch: packed rows of a batch: some attention kernels keep rows apart in batches of one only.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return "reads no position_ids, so rows cannot be kept apart"
    base.config.use_cache = False
    trains = model.training
    model.eval()
    try:
        with torch.no_grad(), suppress_logging():
            return _difference(model, min(batch, len(_LENGTHS)))
    finally:
        model.train(trains)


def _difference(model: Any, batch: int) -> str | None:
    device, vocabulary = next(model.parameters()).device, model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    texts = [
        [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in lengths]
        for lengths in _LENGTHS[:batch]
    ]
    features = [joined([{"input_ids": ids, "labels": ids} for ids in each]) for each in texts]
    inputs = {name: t.to(device) for name, t in collator(0)(features).items() if name != "labels"}
    together = model(**inputs).logits.float()
    for line, each in zip(together, texts, strict=True):
        start = 0
        for ids in each:
            alone = model(input_ids=torch.tensor([ids], device=device)).logits[0].float()
            apart = float((line[start : start + len(ids)] - alone).abs().max() / alone.abs().max().clamp_min(1e-6))
            if not apart <= _LARGEST:
                return f"lets a row see those before it in a packed one (its logits move by {apart:.1%} of the largest)"
            start += len(ids)
    return None
