"""A toy: LoRA whose update no element of may grow without bound, under the elementwise map ``f(x) = x / (1 + |x|)``."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import softsign

from tapertune.methods import Matrix, Method
from tapertune.methods.init import linear_default, zeros
from tapertune.methods.mapped import MappedChain
from tapertune.methods.settings import LowRankSettings


@dataclass(frozen=True, kw_only=True)
class SoftLoraSettings(LowRankSettings):
    """No others."""


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
