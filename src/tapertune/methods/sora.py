"""SoRA: a gate between A and B whose small elements a proximal step sets to zero (Ding et al. 2023, arXiv 2311.11696).

``y = W0 x + s B diag(g) A x``. After each optimizer step ``g <- T(g)``, T soft-thresholding; gates that are zero at the
end are removed. Differs from the released code, whose three assignments in a row are no soft threshold: gates below
twice the threshold become zero (``threshold_form="released"`` repeats it). That code also adds ``sparse_lambda`` times
the mean |g| to the loss, off by default here as it is not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .base import Chain, Diagonal, Matrix, Method
from .init import linear_default, normal, zeros
from .rates import RateRule
from .settings import LowRankSettings, flag, not_negative, one_of, positive_int, setting

FORMS = ("soft", "released")


@dataclass(frozen=True, kw_only=True)
class SoraSettings(LowRankSettings):
    r: int = setting(8, "rank of the update before gates close", positive_int)
    threshold: float = setting(
        3e-4, "amount taken off every gate after each step (xi of the released code)", not_negative
    )
    threshold_form: str = setting("soft", "soft, or released for that code's assignments", one_of(FORMS))
    threshold_times_lr: bool = setting(
        False, "multiply the threshold by the learning rate, as the paper writes it", flag
    )
    sparse_lambda: float = setting(
        0.0, "weight of the mean |g|, added as a gradient (released code: up to 10)", not_negative
    )


def chain(settings: SoraSettings) -> Chain:
    return Chain(
        Matrix("A", "d_in", "r", linear_default),
        Diagonal("g", "r", normal(1.0)),
        Matrix("B", "r", "d_out", zeros),
    )


def plan(settings: SoraSettings) -> dict[str, Any]:
    return {
        "schedule": {"kind": "constant", "value": 0.0, "every": 1},
        "policy": {
            "kind": "proximal",
            "gate": "g",
            "threshold": settings.threshold,
            "form": settings.threshold_form,
            "times_lr": settings.threshold_times_lr,
        },
        "penalties": [{"kind": "l1", "weight": settings.sparse_lambda, "gate": "g"}] if settings.sparse_lambda else [],
    }


SORA = Method(
    name="sora",
    title="Sora",
    summary="a gate on each rank, shrunk step by step until the small ones close",
    paper="Ding et al. 2023, Sparse Low-rank Adaptation of Pre-trained Language Models, EMNLP 2023, arXiv 2311.11696",
    settings=SoraSettings,
    chain=chain,
    scaling=lambda s: s.lora_alpha / s.r,
    plan=plan,
    rates=RateRule(rate=1e-3, slowest=1.7e-4, fastest=2.4e-3, length=0.2, gain=lambda s: s.lora_alpha),
    tunes=("threshold", (1e-4, 3e-4, 1e-3, 3e-3)),
)
