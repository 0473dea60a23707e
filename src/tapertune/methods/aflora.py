"""AFLoRA: A and B freeze one by one, two vectors beside them always train (Liu et al. 2024, arXiv 2403.13269).

``y = W0 x + s diag(b) B diag(d) A x`` (paper; there s = 1). The default plan follows the paper's text.
Differs from the released code in what that code does silently, each a setting here: it scores windows of 10 steps, it
freezes tensors whose mean score is below a quantile over elements, it trains A and B of feed-forward layers only
(``projection_scope="ffn"``, also the default here and the paper's best row), and its GSM8K variant scales by alpha / r.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .base import Chain, Diagonal, Matrix, Method
from .init import constant, kaiming_uniform, zeros
from .rates import RateRule
from .settings import LowRankSettings, finite, one_of, positive, positive_int, setting

SCALINGS = ("none", "alpha/r", "alpha/sqrt(r)")
SCOPES = ("ffn", "attention", "all")


@dataclass(frozen=True, kw_only=True)
class AFLoraSettings(LowRankSettings):
    r: int = setting(4, "rank of the update", positive_int)
    lora_alpha: float = setting(8, "numerator of the scaling, unless scaling is none", positive)
    scaling: str = setting(
        "none", "factor on the update: none (paper, GLUE), alpha/r (GSM8K) or alpha/sqrt(r)", one_of(SCALINGS)
    )
    d_initial: float = setting(0.1, "initial value of the vector d between A and B", finite)
    projection_scope: str = setting(
        "ffn",
        "modules whose A and B train until frozen: ffn, attention or all; elsewhere only the vectors train",
        one_of(SCOPES),
    )


def chain(settings: AFLoraSettings) -> Chain:
    return Chain(
        Matrix("A", "d_in", "r", kaiming_uniform()),
        Diagonal("d", "r", constant(settings.d_initial)),
        Matrix("B", "r", "d_out", kaiming_uniform()),
        Diagonal("b", "d_out", zeros),
    )


def scaling(settings: AFLoraSettings) -> float:
    alpha, r = settings.lora_alpha, settings.r
    return {"none": 1.0, "alpha/r": alpha / r, "alpha/sqrt(r)": alpha / math.sqrt(r)}[settings.scaling]


def gain(settings: AFLoraSettings) -> float:
    """How far b moves the update; d may start at zero, from where it moves first."""
    return scaling(settings) * (abs(settings.d_initial) or 1e-3)


def trains(settings: AFLoraSettings, factor: str, kind: str) -> bool:
    return factor in ("d", "b") or settings.projection_scope in ("all", kind)


def plan(settings: AFLoraSettings) -> dict[str, Any]:
    return {
        "importance": {"kind": "|g|", "beta1": 0.85, "beta2": 0.95},
        "schedule": {"kind": "cubic", "warmup": 0.05, "cooldown": 0.7, "every": 10},
        "policy": {"kind": "lowest_fraction", "factors": ["A", "B"]},
    }


AFLORA = Method(
    name="aflora",
    title="AFLora",
    summary="A and B freeze one by one as their sensitivity falls; two vectors train to the end",
    paper="Liu et al. 2024, AFLoRA: Adaptive Freezing of Low Rank Adaptation, ACL 2024, arXiv 2403.13269",
    settings=AFLoraSettings,
    chain=chain,
    scaling=scaling,
    trains=trains,
    plan=plan,
    rates=RateRule(rate=1.1e-2, slowest=2.3e-3, fastest=3e-2, width=0, length=0.2, gain=gain),
    tunes=("d_initial", (0.03, 0.1, 0.3, 1.0)),
)
