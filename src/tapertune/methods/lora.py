"""LoRA: the baseline (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Chain, Matrix, Method
from .init import linear_default, zeros
from .rates import RateRule
from .settings import check_positive, check_probability, check_rank, setting


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    r: int = setting(8, "rank of the update")
    lora_alpha: float = setting(16, "the update is scaled by lora_alpha / r")
    dropout: float = setting(0.0, "probability of dropping an element of the adapter's input, to the nearest 1/128")

    def __post_init__(self) -> None:
        check_rank("r", self.r)
        check_positive("lora_alpha", self.lora_alpha)
        check_probability("dropout", self.dropout)


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
