"""Subjects of others: PEFT's own methods, and the naive forms of methods that PEFT lacks."""

from __future__ import annotations

from typing import Any

import peft
import torch
from torch import Tensor

from .base_models import Base
from .candidate import RUN, Candidate, optimizer_of, share_copy
from .naive import NaiveLayer, NaiveScores, replace_layers
from .ours import Build


def baseline(config: str, **settings: Any) -> Build:
    """One of PEFT's methods, by its config's name."""

    def build(base: Base) -> Candidate:
        peft_config = getattr(peft, config)(target_modules=list(base.targets), **settings)
        model: Any = peft.get_peft_model(share_copy(base.model), peft_config).train()
        return Candidate(model=model, batch=base.batch, optimizer=optimizer_of(model))

    return build


def baseline_adalora(r: int) -> Build:
    """PEFT's AdaLoRA with the call that it asks for at each step; it decides every ten steps, as ours does."""
    build_plain = baseline(
        "AdaLoraConfig", init_r=r, target_r=r * 2 // 3, tinit=0, tfinal=0, deltaT=10, total_step=RUN,
        beta1=0.85, beta2=0.85, orth_reg_weight=0.1,
    )  # fmt: skip

    def build(base: Base) -> Candidate:
        candidate = build_plain(base)
        candidate.after = candidate.model.base_model.update_and_allocate
        return candidate

    return build


def naive(layer: type[NaiveLayer], *, times_weight: bool = False) -> Build:
    """A naive form with its scores and its penalty.

    Args:
        layer: the form.
        times_weight: whether its score is ``|g p|`` rather than ``|g|``.
    """

    def build(base: Base) -> Candidate:
        model = share_copy(base.model)
        layers = replace_layers(model, base.target_names(), layer)
        scores = NaiveScores(layers, times_weight)
        candidate = Candidate(model=model.train(), batch=base.batch, optimizer=optimizer_of(model))
        candidate.after = scores.observe if scores.tensors else None
        candidate.penalty = (lambda: _mean(layers)) if any(True for _ in layers[0].penalties()) else None
        return candidate

    return build


def _mean(layers: list[NaiveLayer]) -> Tensor:
    return 0.1 * torch.stack([term for layer in layers for term in layer.penalties()]).mean()
