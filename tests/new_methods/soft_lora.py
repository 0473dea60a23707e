"""A toy: LoRA whose update no element of may grow without bound, under the elementwise map ``f(x) = x / (1 + |x|)``."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import softsign

from tapertune.methods import Matrix, Method
from tapertune.methods.init import linear_default, zeros
from tapertune.methods.mapped import MappedChain
from tapertune.methods.settings import check_positive, check_probability, check_rank, setting


@dataclass(frozen=True, kw_only=True)
class SoftLoraSettings:
    r: int = setting(8, "rank of the product under the map")
    lora_alpha: float = setting(16, "the update is scaled by lora_alpha / r")
    dropout: float = setting(0.0, "probability of dropping an element of the adapter's input")

    def __post_init__(self) -> None:
        check_rank("r", self.r)
        check_positive("lora_alpha", self.lora_alpha)
        check_probability("dropout", self.dropout)


def chain(settings: SoftLoraSettings) -> MappedChain:
    return MappedChain((Matrix("B", "r", "d_out", zeros), Matrix("A", "d_in", "r", linear_default)), (), softsign, {})


SOFT_LORA = Method(
    name="soft_lora",
    title="SoftLora",
    summary="a bounded elementwise map on the low-rank product",
    paper="of this test's own making",
    settings=SoftLoraSettings,
    chain=chain,
    scaling=lambda s: s.lora_alpha / s.r,
)
