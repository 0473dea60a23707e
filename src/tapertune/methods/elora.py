"""ELoRA, also VeRA: random projections that never train, two vectors that do (Kopiczko et al. 2023, arXiv 2310.11454).

``y = W0 x + diag(b) B diag(d) A x``. One pair A, B, drawn from ``projection_prng_key`` for the widest module, serves
all, as in PEFT's VeRA, and is held once. ``shared=False`` draws a pair for each module, as the reproduction in AFLoRA's
released code does.
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import Chain, Diagonal, Matrix, Method
from .init import constant, kaiming_uniform, zeros
from .rates import RateRule
from .settings import Settings, dropout_setting, finite, flag, natural_int, positive_int, setting


@dataclass(frozen=True, kw_only=True)
class EloraSettings(Settings):
    r: int = setting(256, "rank of the random projections", positive_int)
    dropout: float = dropout_setting()
    d_initial: float = setting(0.1, "initial value of the vector d between A and B", finite)
    shared: bool = setting(True, "one pair of projections for all modules, rather than one for each", flag)
    projection_prng_key: int = setting(0, "seed of the shared projections", natural_int)
    save_projection: bool = setting(True, "save the shared projections, rather than draw them again on loading", flag)


def chain(settings: EloraSettings) -> Chain:
    return Chain(
        Matrix("A", "d_in", "r", kaiming_uniform(), shared=settings.shared),
        Diagonal("d", "r", constant(settings.d_initial)),
        Matrix("B", "r", "d_out", kaiming_uniform(), shared=settings.shared),
        Diagonal("b", "d_out", zeros),
    )


ELORA = Method(
    name="elora",
    title="Elora",
    summary="frozen random projections, shared by all modules; two vectors a module train",
    paper="Kopiczko et al. 2023, VeRA: Vector-based Random Matrix Adaptation, ICLR 2024, arXiv 2310.11454",
    settings=EloraSettings,
    chain=chain,
    scaling=lambda s: 1.0,
    trains=lambda s, factor, kind: factor in ("d", "b"),
    rates=RateRule(rate=3e-2, slowest=6e-3, fastest=8e-2, width=0, gain=lambda s: abs(s.d_initial) or 1e-3),
    tunes=("d_initial", (0.03, 0.1, 0.3, 1.0)),
)
