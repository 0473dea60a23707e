"""What an export is asked for, and what it says that it wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import bad_value, unknown
from .comparison import Comparison

EXPERTS = ("stacked", "each")
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

    @property
    def worst(self) -> float:
        return max(m.error for m in self.modules)


@dataclass(frozen=True, kw_only=True)
class ExportForm:
    """What to write; see ``export_lora``."""

    rank: int | None = None
    energy: float | None = None
    max_error: float | None = None
    round_up: bool = False
    ragged: bool = False
    experts: str = "stacked"

    def __post_init__(self) -> None:
        if self.experts not in EXPERTS:
            raise unknown("form of experts", self.experts, EXPERTS)
        if self.rank is not None and (isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1):
            raise bad_value("rank", self.rank, "a whole number of at least 1")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise bad_value("energy", self.energy, "above 0 and at most 1")
        if self.max_error is not None and not 0 < self.max_error < 1:
            raise bad_value("max_error", self.max_error, "between 0 and 1")
        if self.rank is not None and self.energy is not None:
            raise bad_value("energy", self.energy, "None when rank is given: either says where updates are cut")
        if self.round_up and self.ragged:
            raise bad_value("round_up", True, "False for a ragged export, in which each module has its own rank")
