"""What a run has cost so far; each checkpoint keeps it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ..files import read_json_object
from . import distributed
from .run_folder import MARK


@dataclass(kw_only=True)
class Costs:
    """What a run has cost so far; kept in each checkpoint."""

    tokens: int = 0
    rows: int = 0
    passes: int = 0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    peak_rss_bytes: int = 0
    optimizer_bytes_start: int = 0
    optimizer_bytes_end: int = 0
    skipped_steps: int = 0  # of a run without an adapter: a controller counts those of its own


def load_costs(checkpoint: Path | None) -> Costs:
    """The costs up to a checkpoint; none yet without one, or in a process that is not the first, which has them all."""
    if checkpoint is None or not distributed.is_first():
        return Costs()
    saved, names = read_json_object(checkpoint / MARK), {field.name for field in dataclasses.fields(Costs)}
    return Costs(**{key: value for key, value in saved.items() if key in names})
