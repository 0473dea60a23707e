"""LoRA-XS: a small matrix that trains between two random ones that do not (Balazy et al. 2024, arXiv 2405.17604).

``y = W0 x + (alpha / r) B R A x``. The paper takes A and B from the weight's singular vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

from tapertune.methods import Chain, Matrix, Method
from tapertune.methods.init import linear_default, zeros
from tapertune.methods.settings import LowRankSettings


@dataclass(frozen=True, kw_only=True)
class LoraXSSettings(LowRankSettings):
    """No others."""


def chain(settings: LoraXSSettings) -> Chain:
    return Chain(
        Matrix("A", "d_in", "r", linear_default),
        Matrix("R", "r", "r", zeros),
        Matrix("B", "r", "d_out", linear_default),
    )


LORA_XS = Method(
    name="lora_xs",
    title="LoraXS",
    summary="a small matrix trains between two random ones",
    paper="Balazy et al. 2024, LoRA-XS, arXiv 2405.17604",
    settings=LoraXSSettings,
    chain=chain,
    scaling=lambda s: s.lora_alpha / s.r,
    trains=lambda settings, factor, kind: factor == "R",
)
