"""The grids of runs that end in half the time: read, and their rows' caches are part of what a run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapertune.compare.grid import check_grid, load_grid
from tapertune.compare.jobs import _check, _raw
from tapertune.compare.points import points_of
from tapertune.errors import TapertuneError

GRIDS = sorted((Path(__file__).parents[2] / "benchmarks" / "half").glob("*.yaml"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_row_is_a_run(path: Path) -> None:
    grid = load_grid(path)
    assert len(grid.seeds) == 5 and len(grid.tasks) == 4
    assert {name for name, row in grid.rows.items() if row.cache} == {
        "lora-top-half-cache", "clock-cache", "evidence-cache",
    }  # fmt: skip
    for row in grid.rows:
        raw = _raw(grid, row, "sst2", {})
        _check(grid, row, "sst2", raw, points_of(grid, row)[0])
        assert ("cache" in raw) == row.endswith("-cache")


def test_a_cache_of_peft_rows_is_refused() -> None:
    raw: dict[str, Any] = {
        "base": {"model": "minilm"}, "tasks": ["sst2"], "seeds": [1], "rates": [1e-3],
        "rows": {"peft-lora": {"method": {"name": "peft-lora", "r": 8}, "cache": {"memory": 1}}},
    }  # fmt: skip
    grid = check_grid(raw)
    with pytest.raises(TapertuneError, match=r"row 'peft-lora'.*cache: peft-lora is PEFT's own"):
        _check(grid, "peft-lora", "sst2", _raw(grid, "peft-lora", "sst2", {}), points_of(grid, "peft-lora")[0])
