"""What an export is asked for, and what it says that it wrote."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import bad_value, unknown
from .comparison import Comparison
from .servers import find_server, vllm_rank

STACKED = "stacked"
EXPERTS = (STACKED, "each")
"""How the matrices of stacked experts are written."""


@dataclass(frozen=True, kw_only=True)
class ModuleExport:
    """One module: its rank before and after, and the relative error (Frobenius) of the exported update.

    ``rank`` counts the components that are kept, without the zeros that fill the tensors up to the export's rank.
    """

    module: str
    rank_before: int | None
    rank: int
    error: float


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        method: the adapter's.
        lossless: whether every update is there up to float32 rounding.
        rank: of all tensors; None where each module has its own.
        modules: those with an update.
        left_out: those of the adapter whose update is zero, which a ragged export leaves out.
        zeros: those written as zeros: these, and ones that the adapter does not have but a server asks for.
        saved_beside: names of weights saved whole.
        notes: what a user should know, a line each.
        comparison: of logits, where it was asked for.
        out: the folder.
        to: the format.
        base: the model that the adapter is for, folder or name; None where it is not known.
        commands: the lines that start the server that was named.
    """

    method: str
    lossless: bool
    rank: int | None
    modules: list[ModuleExport]
    left_out: list[str]
    zeros: list[str]
    saved_beside: list[str]
    notes: list[str]
    comparison: Comparison | None
    out: Path
    to: str = "lora"
    base: str | None = None
    commands: tuple[str, ...] = ()

    @property
    def worst(self) -> float:
        return max(m.error for m in self.modules)


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """What a merge wrote.

    Attributes:
        rounding: the largest relative part of a module's update that was lost to the weights' dtype.
        lost: the same of all updates together (Frobenius).
        dtype: of the merged weights, as transformers calls it.
        comparison: of logits, where it was asked for.
        commands: the lines that start the server that was named.
    """

    method: str
    modules: list[str]
    replaced: list[str]
    added: list[str]
    shards: list[str]
    rounding: float
    lost: float
    dtype: str
    warnings: list[str]
    out: Path
    base: str
    comparison: Comparison | None = None
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExportForm:
    """What to write; see ``export_lora``."""

    rank: int | None = None
    energy: float | None = None
    max_error: float | None = None
    round_up: bool = False
    ragged: bool = False
    experts: str = STACKED
    server: str | None = None
    max_difference: float | None = None

    @property
    def cuts(self) -> bool:
        """Whether it says where updates are cut."""
        return any(limit is not None for limit in (self.rank, self.energy, self.max_error))

    def rounded(self, rank: int) -> int:
        """The one rank that is written where modules need this one."""
        rounding = find_server(self.server).round_rank if self.server else None
        rank = rounding(rank) if rounding is not None else rank
        return vllm_rank(rank) if self.round_up else rank

    def __post_init__(self) -> None:
        if self.experts not in EXPERTS:
            raise unknown("form of experts", self.experts, EXPERTS)
        if self.rank is not None and (isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1):
            raise bad_value("rank", self.rank, "a whole number of at least 1")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise bad_value("energy", self.energy, "above 0 and at most 1")
        if self.max_error is not None and not 0 < self.max_error < 1:
            raise bad_value("max_error", self.max_error, "between 0 and 1")
        if self.max_difference is not None and not 0 <= self.max_difference < math.inf:
            raise bad_value("max_difference", self.max_difference, "a number of at least 0")
        if self.rank is not None and self.energy is not None:
            raise bad_value("energy", self.energy, "None when rank is given: either says where updates are cut")
        if self.round_up and self.rank is not None:
            vllm_rank(self.rank)
        if self.round_up and self.ragged:
            raise bad_value("round_up", True, "False for a ragged export, in which each module has its own rank")
