"""LoRA^2: AdaLoRA whose singular vectors are low-rank themselves (Zhang et al. 2024, arXiv 2408.06854).

``y = W0 x + s bb aa diag(E) B A x``: Q = B A and P = bb aa are products through an inner width k. Five thin products;
the dense d_in x d_out matrix of the released code is never built. Only E, aa and B are scored, 99% fewer elements than
AdaLoRA's triplets. The released penalty cannot run; here each plane has its own, and ``orth_cross`` adds the paper's
term on the composed P and Q.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .adalora import BudgetSettings, budget_plan, scaling
from .base import Chain, Diagonal, Matrix, Method
from .init import normal, zeros
from .rates import RateRule
from .settings import flag, positive_int, setting


@dataclass(frozen=True, kw_only=True)
class Lora2Settings(BudgetSettings):
    init_r: int = setting(8, "rank of every module at the start", positive_int)
    k: int = setting(8, "inner width of the two planes (released code: 8, fixed)", positive_int)
    orth_planes: bool = setting(True, "keep the matrices of each plane orthonormal", flag)
    orth_cross: bool = setting(True, "keep the composed singular vectors orthonormal", flag)


def chain(settings: Lora2Settings) -> Chain:
    return Chain(
        Matrix("A", "d_in", "k", normal(0.02)),
        Matrix("B", "k", "init_r", normal(0.02)),
        Diagonal("E", "init_r", zeros),
        Matrix("aa", "init_r", "k", normal(0.02)),
        Matrix("bb", "k", "d_out", normal(0.02)),
    )


def plan(settings: Lora2Settings) -> dict[str, Any]:
    orth: dict[str, Any] = {"rows": [], "columns": []}
    if settings.orth_planes:
        orth = {"rows": ["A", "aa"], "columns": ["B", "bb"]}
    if settings.orth_cross:
        orth |= {"row_products": [["B", "A"]], "column_products": [["bb", "aa"]]}
    made = budget_plan(settings, "E", ["E", "aa", "B"], orth)
    return made if settings.orth_planes or settings.orth_cross else {**made, "penalties": []}


LORA2 = Method(
    name="lora2",
    title="Lora2",
    summary="AdaLoRA's budget on two nested scales; few, cheap scores",
    paper="Zhang et al. 2024, LoRA^2: Multi-Scale Low-Rank Approximations for Fine-Tuning Large Language Models,"
    " arXiv 2408.06854",
    settings=Lora2Settings,
    chain=chain,
    scaling=scaling,
    rank="init_r",
    plan=plan,
    rates=RateRule(rate=1.2e-2, slowest=3e-3, fastest=3e-2, length=0.6, gain=lambda s: s.lora_alpha, power=1 / 5),
    tunes=("k", (4, 8, 16)),
)
