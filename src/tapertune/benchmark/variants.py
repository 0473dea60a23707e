"""What is measured, a row each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import TapertuneError, unknown
from .base_models import Base
from .baselines import baseline, baseline_adalora, naive
from .candidate import Candidate, frozen_reference, repeatable
from .naive import NaiveAFLora, NaiveAFLoraFrozen, NaiveLora2, NaiveLoran
from .ours import Build, built_at_pruned_ranks, frozen, ours, pruned

FLOOR = "floor"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of ``VARIANTS``.

    Attributes:
        what: the variant in a few words.
        build: puts it into a copy of a model.
    """

    what: str
    build: Build


def _row(what: str, build: Build) -> Variant:
    return Variant(what=what, build=build)


def _compiled(variant: Variant) -> Variant:
    """The same under ``torch.compile``, with its default compiler."""

    def build(base: Base) -> Candidate:
        dynamo: Any = torch._dynamo
        # every model in the process counts towards one limit, beyond which it would be run uncompiled
        dynamo.config.recompile_limit = max(64, dynamo.config.recompile_limit)
        candidate = variant.build(base)
        candidate.model.compile()
        return candidate

    return Variant(what=f"{variant.what}, compiled", build=build)


VARIANTS: dict[str, Variant] = {
    FLOOR: _row("frozen model, no adapter, no optimizer", frozen_reference),
    "peft-lora": _row("PEFT LoRA r=8", baseline("LoraConfig", r=8, lora_alpha=16)),
    "peft-lora-dropout": _row(
        "PEFT LoRA r=8, dropout 0.1", baseline("LoraConfig", r=8, lora_alpha=16, lora_dropout=0.1)
    ),
    "peft-adalora": _row("PEFT AdaLoRA r=12", baseline_adalora(12)),
    "peft-vera-256": _row("PEFT VeRA r=256", baseline("VeraConfig", r=256)),
    "peft-vera-1024": _row("PEFT VeRA r=1024", baseline("VeraConfig", r=1024)),
    "naive-aflora": _row("naive AFLoRA r=4", naive(NaiveAFLora)),
    "naive-aflora-frozen": _row("naive AFLoRA r=4, A and B frozen", naive(NaiveAFLoraFrozen)),
    "naive-lora2": _row("naive LoRA^2 r=8 k=8", naive(NaiveLora2, times_weight=True)),
    "naive-loran": _row("naive LoRAN r=8", naive(NaiveLoran)),
    "ours-lora": _row("LoRA r=8", ours("lora", r=8)),
    "ours-lora-dropout": _row("LoRA r=8, dropout 0.1", ours("lora", r=8, dropout=0.1)),
    "ours-adalora": _row("AdaLoRA r=12, scores and penalty", ours("adalora", init_r=12)),
    "ours-adalora-pruned": _row("AdaLoRA r=12, pruned to 8", pruned("adalora", init_r=12)),
    "ours-adalora-built": _row("AdaLoRA, built at those ranks", built_at_pruned_ranks("adalora", init_r=12)),
    "ours-aflora": _row("AFLoRA r=4", ours("aflora", r=4, projection_scope="all")),
    "ours-aflora-frozen-a": _row("AFLoRA r=4, A frozen", frozen("aflora", ["A"], r=4, projection_scope="all")),
    "ours-aflora-frozen": _row("AFLoRA r=4, A and B frozen", frozen("aflora", ["A", "B"], r=4, projection_scope="all")),
    "ours-lora2": _row("LoRA^2 r=8 k=8, scores and penalty", ours("lora2", init_r=8, k=8)),
    "ours-loran": _row("LoRAN r=8", ours("loran", r=8)),
    "ours-elora-256": _row("ELoRA r=256", ours("elora", r=256)),
    "ours-elora-1024": _row("ELoRA r=1024", ours("elora", r=1024)),
    "ours-sora": _row("SoRA r=8", ours("sora", r=8)),
}


COMPILED: dict[str, Variant] = {
    f"compiled-{name}": _compiled(VARIANTS[name])
    for name in (
        FLOOR,
        "peft-lora",
        "peft-lora-dropout",
        "ours-lora",
        "ours-lora-dropout",
        "ours-adalora",
        "ours-aflora",
    )
}
"""Measured where they are asked for: each takes half a minute before its first step."""

ALL: dict[str, Variant] = {**VARIANTS, **COMPILED}


def build(name: str, base: Base) -> Candidate:
    """A variant in a copy of a model, the same whenever it is made."""
    with repeatable():
        return ALL[name].build(base)


def choose(names: list[str] | None) -> list[str]:
    """The variants that are asked for, in the table's order; the floor is among them always.

    Args:
        names: of variants, or beginnings of names that end in a dash (``ours-``); None for all that are not compiled.

    Raises:
        TapertuneError: no such variant; the nearest name is suggested.
    """
    if names is None:
        return list(VARIANTS)
    chosen = {FLOOR}
    for name in names:
        if name.endswith("-") and (group := [s for s in ALL if s.startswith(name)]):
            chosen.update(group)
        elif name in ALL:
            chosen.add(name)
        else:
            raise unknown("subject", name, ALL)
    if chosen == {FLOOR}:
        raise TapertuneError("subjects names the floor alone; name one to compare with it, such as ours-lora")
    return [name for name in ALL if name in chosen]
