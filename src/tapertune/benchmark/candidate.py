"""A model with one variant in it, ready to step: what is timed and counted."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..adapt import Controller
from .base_models import Base

# Long enough that a measurement stays in the part of the run in which it began.
RUN = 10_000


@dataclass(kw_only=True)
class Candidate:
    """
    Attributes:
        model: with the variant in it.
        batch: keyword arguments of its forward.
        optimizer: of what trains; None for the floor.
        controller: ours, attached to the optimizer, where there is one.
        after: called after each optimizer step, with gradients still there, with the number of steps so far.
        penalty: a term of the loss that the model does not add by itself.
    """

    model: Any
    batch: Mapping[str, Tensor]
    optimizer: Optimizer | None = None
    controller: Controller | None = None
    after: Callable[[int], Any] | None = None
    penalty: Callable[[], Tensor] | None = None
    steps: int = 0

    def loss(self) -> Tensor:
        loss = self.model(**self.batch).loss
        return loss if self.penalty is None else loss + self.penalty()

    def step(self) -> None:
        """A whole training step; for the floor, forward and backward."""
        self.loss().backward()
        self.finish_step()

    def finish_step(self) -> None:
        """All of a step that comes after backward."""
        self.steps += 1
        if self.optimizer is None:
            return
        self.optimizer.step()
        if self.after is not None:
            self.after(self.steps)
        self.optimizer.zero_grad()

    def trained(self) -> list[Tensor]:
        return [p for p in self.model.parameters() if p.requires_grad]


def frozen_reference(base: Base) -> Candidate:
    """The frozen model: forward, and backward through the activations to the embeddings."""
    return Candidate(model=share_copy(base.model), batch=base.batch)


@contextmanager
def repeatable() -> Iterator[None]:
    """Makes adapters start the same whenever they are made, and without a warning that is no business of ours."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        # peft reads a property of transformers' models that transformers has deprecated
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield


def share_copy(model: Any) -> Any:
    """A copy that shares parameters and buffers, so that many variants cost one set of base weights."""
    memo: dict[int, Any] = {id(p): p for p in model.parameters()}
    memo.update({id(b): b for b in model.buffers()})
    return copy.deepcopy(model, memo)


def optimizer_of(model: Any) -> Optimizer:
    """Trainer's default, for every variant."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
