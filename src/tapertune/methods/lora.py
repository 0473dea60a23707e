"""LoRA: the baseline (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Chain, Matrix, Method
from .init import linear_default, zeros
from .rates import RateRule
from .settings import LowRankSettings


@dataclass(frozen=True, kw_only=True)
class LoraSettings(LowRankSettings):
    """No others."""


def chain(settings: LoraSettings) -> Chain:
    return Chain(Matrix("A", "d_in", "r", linear_default), Matrix("B", "r", "d_out", zeros))


LORA = Method(
    name="lora",
    title="Lora",
    summary="two low-rank matrices, both trained throughout",
    paper="Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685",
    settings=LoraSettings,
    chain=chain,
    scaling=lambda s: s.lora_alpha / s.r,
    rates=RateRule(rate=1e-3, slowest=1.7e-4, fastest=2.4e-3, length=0.2, gain=lambda s: s.lora_alpha),
    tunes=("lora_alpha", (8, 16, 32, 64)),
)
