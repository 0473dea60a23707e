"""A grid over the tiny model, small enough that a run takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tapertune.compare.grid import check_grid
from tapertune.compare.jobs import Comparison, make_comparison


def raw_grid(root: Path, rows: Any = ("lora", "head"), **changes: Any) -> dict[str, Any]:
    """Nested settings of a grid on what ``tiny_run`` writes."""
    raw: dict[str, Any] = {
        "name": "tiny",
        "base": {
            "model": str(root / "model"),
            "training": {"per_device_train_batch_size": 8, "num_train_epochs": 1, "logging_steps": 1},
            "head": {"learning_rate": 2e-2},
        },
        "rows": list(rows) if isinstance(rows, tuple) else rows,
        "tasks": {"sst2": {"data": str(root / "data"), "train_rows": 20, "selection_rows": 8, "max_length": 16}},
        "seeds": [1, 2],
        "rates": [1e-3, 1e-2],
        "best": 1,
    }
    return {**raw, **changes}


def comparison_of(root: Path, rows: Any = ("lora", "head"), **changes: Any) -> Comparison:
    return make_comparison(check_grid(raw_grid(root, rows, **changes)), None, root / "scratch")


def write_grid(root: Path, rows: Any = ("lora", "head"), **changes: Any) -> Path:
    file = root / "grid.yaml"
    file.write_text(yaml.safe_dump(raw_grid(root, rows, **changes), sort_keys=False), encoding="utf-8")
    return file
