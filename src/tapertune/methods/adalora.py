"""AdaLoRA: an SVD-shaped update whose singular values compete for a budget (Zhang et al. 2023, arXiv 2303.10512).

``y = W0 x + s B diag(E) A x``, with ``s = alpha / (r + 1e-5)`` as in the released code, r the initial rank throughout.
Triplets of least importance lose their singular value as the budget falls along a cubic; a penalty keeps A and B
orthonormal. Differs from the released code where that is a matter of settings: the penalty has the paper's form by
default (``orth_form``), and triplets that are out for good are removed, not masked (``plan.compact``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import bad_value
from .base import Chain, Diagonal, Matrix, Method
from .init import normal, zeros
from .rates import RateRule
from .settings import (
    LARGEST_RANK,
    Settings,
    allows,
    dropout_setting,
    duration,
    finite,
    one_of,
    positive,
    positive_int,
    setting,
    share,
    steps,
)

ORTH_FORMS = ("squared_sum", "norm_mean")


@allows(anyOf=[{"type": "integer", "minimum": 1, "maximum": LARGEST_RANK}, {"type": "null"}])
def _target(field: str, value: Any) -> None:
    if value is not None:
        positive_int(field, value)


@dataclass(frozen=True, kw_only=True)
class BudgetSettings(Settings):
    """What methods with a rank budget share; durations are steps, or fractions of the run."""

    init_r: int = setting(12, "rank of every module at the start", positive_int)
    target_r: int | None = setting(None, "mean rank at the end; None for two thirds of init_r", _target)
    lora_alpha: float = setting(16, "the update is scaled by lora_alpha / (init_r + 1e-5)", positive)
    dropout: float = dropout_setting()
    tinit: float = setting(0.1, "warm-up before the budget falls: steps, or a fraction of the run", duration)
    tfinal: float = setting(0.3, "final phase with the budget reached: steps, or a fraction of the run", duration)
    deltaT: int = setting(10, "steps between two decisions", steps)
    beta1: float = setting(0.85, "memory of the mean importance", share)
    beta2: float = setting(0.85, "memory of the importance's deviation", share)
    orth_reg_weight: float = setting(0.1, "weight of the orthogonality penalty; 0 for none", finite)
    orth_form: str = setting(
        "squared_sum", "penalty: squared_sum (paper) or norm_mean (released code)", one_of(ORTH_FORMS)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_r is not None and self.target_r >= self.init_r:
            raise bad_value("target_r", self.target_r, f"less than init_r, which is {self.init_r}")


def chain(settings: BudgetSettings) -> Chain:
    return Chain(
        Matrix("A", "d_in", "init_r", normal(0.02)),
        Diagonal("E", "init_r", zeros),
        Matrix("B", "init_r", "d_out", normal(0.02)),
    )


def scaling(settings: BudgetSettings) -> float:
    return settings.lora_alpha / (settings.init_r + 1e-5)


def budget_plan(settings: BudgetSettings, gate: str, scored: list[str] | None, orth: dict[str, Any]) -> dict[str, Any]:
    """The plan of a method with a rank budget; ``orth`` names the factors that the penalty keeps orthonormal.

    A rank of 1 has nothing to give up, so then there is no budget.
    """
    penalty = {"kind": "orthogonality", "weight": settings.orth_reg_weight, "form": settings.orth_form, **orth}
    target = settings.target_r if settings.target_r is not None else max(1, settings.init_r * 2 // 3)
    constant = {"kind": "constant", "value": 1.0}
    ramp = {"kind": "cubic", "warmup": settings.tinit, "cooldown": settings.tfinal, "every": settings.deltaT}
    return {
        "importance": {"kind": "|g*p|", "beta1": settings.beta1, "beta2": settings.beta2},
        "schedule": ramp if settings.init_r > 1 else constant,
        "policy": {"kind": "rank_budget", "gate": gate, "target": target, "scored": scored},
        "penalties": [penalty] if settings.orth_reg_weight else [],
        "observe": "after",
    }


def plan(settings: BudgetSettings) -> dict[str, Any]:
    return budget_plan(settings, "E", None, {"rows": ["A"], "columns": ["B"]})


ADALORA = Method(
    name="adalora",
    title="AdaLora",
    summary="singular triplets compete for a falling rank budget over all modules",
    paper="Zhang et al. 2023, AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, ICLR 2023,"
    " arXiv 2303.10512",
    settings=BudgetSettings,
    chain=chain,
    scaling=scaling,
    rank="init_r",
    plan=plan,
    rates=RateRule(rate=5e-2, slowest=6e-3, fastest=1.2e-1, length=0.8, gain=lambda s: s.lora_alpha, power=1 / 3),
    tunes=("orth_reg_weight", (0.0, 0.01, 0.1, 0.5)),
)
