"""LoRAN: an elementwise map on the weight update (Li et al. 2024, EMNLP Findings 2024.177).

``y = W0 x + (alpha / r) f(B A) x``; the paper's map, Sinter, is ``f(x) = A x sin(omega x) + x``. Optional matrices P
widen the inner form: ``M <- f(M) P + b``. Differs from the released code where that cannot work: any widths are
allowed, the last P starts at random rather than at zero (with B at zero nothing would ever train), and maps with
f(0) != 0 are shifted so that training starts from the base model (``center=False`` keeps the released start).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import bad_value
from .base import Matrix, Method
from .init import linear_default, zeros
from .mapped import Map, MappedChain, Offset
from .rates import RateRule
from .settings import LARGEST_RANK, LowRankSettings, allows, finite, flag, one_of, positive_int, setting

Activation = Callable[[Tensor, float, float], Tensor]


class Sinter(Map):
    """``f(x) = A x sin(omega x) + x``, with the slope ``f'(x) = 1 + A (sin(omega x) + omega x cos(omega x))``.

    Args:
        amplitude: A.
        omega: omega.
    """

    def __init__(self, amplitude: float, omega: float) -> None:
        super().__init__(lambda x: torch.addcmul(x, x, torch.sin(omega * x), value=amplitude))
        self.amplitude, self.omega = amplitude, omega

    def __reduce__(self) -> tuple[type[Sinter], tuple[float, float]]:
        return Sinter, (self.amplitude, self.omega)


ACTIVATIONS: dict[str, Activation] = {
    "sinter": lambda x, amplitude, omega: Sinter(amplitude, omega)(x),
    "cos": lambda x, amplitude, omega: x * torch.cos(1e4 * x) + x,
    "gaussian": lambda x, amplitude, omega: 0.5 * x * torch.exp(-x * x),
    "identity": lambda x, amplitude, omega: x,
    # with slope 1 at zero, where torch.relu's is 0 and a product that starts at zero would stay there
    "relu": lambda x, amplitude, omega: torch.where(x >= 0, x, torch.zeros_like(x)),
    "sigmoid": lambda x, amplitude, omega: torch.sigmoid(x),
    "silu": lambda x, amplitude, omega: torch.nn.functional.silu(x),
    "swish": lambda x, amplitude, omega: x * torch.sigmoid(25 * x),
    "tanh": lambda x, amplitude, omega: torch.tanh(x),
}


@allows(type="array", items={"type": "integer", "minimum": 1, "maximum": LARGEST_RANK})
def _widths(field: str, value: Any) -> None:
    if not isinstance(value, list | tuple):
        raise bad_value(field, value, "a list of widths")
    for i, size in enumerate(value):
        positive_int(f"{field}[{i}]", size)


@dataclass(frozen=True, kw_only=True)
class LoranSettings(LowRankSettings):
    r: int = setting(64, "rank of the product under the map", positive_int)
    activation: str = setting("sinter", "the map: " + ", ".join(sorted(ACTIVATIONS)), one_of(sorted(ACTIVATIONS)))
    amplitude: float = setting(5e-5, "A of Sinter", finite)
    omega: float = setting(1e4, "omega of Sinter; omega times x is evaluated in float32 or wider", finite)
    p_sizes: tuple[int, ...] | list[int] = setting(
        (), "inner widths before each further matrix P; none for no P", _widths
    )
    offsets: bool = setting(False, "add a trained row after each map", flag)
    center: bool = setting(True, "use f(x) - f(0), so that the start is the base model", flag)


def chain(settings: LoranSettings) -> MappedChain:
    symbols = [*(f"p{i}" for i, _ in enumerate(settings.p_sizes, 1)), "d_in"]
    matrices = [Matrix("B", "r", "d_out", zeros), Matrix("A", symbols[0], "r", linear_default)]
    for i, (rows, columns) in enumerate(itertools.pairwise(symbols), 1):
        matrices.append(Matrix(f"P{i}", columns, rows, linear_default))
    ends = symbols[1:] or ["d_in"]
    offsets = [Offset(f"b{i}", symbol, zeros) for i, symbol in enumerate(ends, 1)] if settings.offsets else []
    widths = dict(zip(symbols, settings.p_sizes, strict=False))
    return MappedChain(tuple(matrices), tuple(offsets), function(settings), widths)


def function(settings: LoranSettings) -> Map:
    """The map with its constants set, f(0) taken off where asked for."""
    if settings.activation == "sinter":
        return Sinter(settings.amplitude, settings.omega)
    f = ACTIVATIONS[settings.activation]
    at_zero = f(torch.zeros((), dtype=torch.float64, device="cpu"), 0.0, 0.0).item() if settings.center else 0.0

    def mapped(x: Tensor) -> Tensor:
        y = f(x, settings.amplitude, settings.omega)
        return y - at_zero if at_zero else y

    return _OfSettings(mapped, settings)


class _OfSettings(Map):
    """A map that pickles as the settings it comes from."""

    def __init__(self, function: Callable[[Tensor], Tensor], settings: LoranSettings) -> None:
        super().__init__(function)
        self.settings = settings

    def __reduce__(self) -> tuple[Callable[[LoranSettings], Map], tuple[LoranSettings]]:
        return function, (self.settings,)


LORAN = Method(
    name="loran",
    title="Loran",
    summary="an elementwise map on the low-rank product; dense, so mergeable but not LoRA",
    paper="Li et al. 2024, LoRAN: Improved Low-Rank Adaptation by a Non-Linear Transformation, EMNLP Findings 2024,"
    " 2024.findings-emnlp.177",
    settings=LoranSettings,
    chain=chain,
    scaling=lambda s: s.lora_alpha / s.r,
    rates=RateRule(rate=1e-3, slowest=1.7e-4, fastest=2.4e-3, length=0.2, gain=lambda s: s.lora_alpha),
    tunes=("lora_alpha", (8, 16, 32, 64)),
)
