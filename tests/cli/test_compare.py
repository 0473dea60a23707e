"""The command: what it says before it runs anything, and what it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from compare.tiny_grid import raw_grid, write_grid

from tapertune.cli.main import main
from tapertune.compare.store import Store

Capture = pytest.CaptureFixture[str]


def go(root: Path, *arguments: str, **changes: Any) -> int:
    grid = write_grid(root, changes.pop("rows", ("lora", "head")), **changes)
    place = ("--store", str(root / "store"), "--scratch", str(root / "scratch"))
    return main(["compare", str(grid), *place, *arguments])


def test_a_dry_run_checks_all_and_writes_no_store(root: Path, capsys: Capture) -> None:
    assert go(root, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "2 rows, 1 tasks, 2 seeds: at most 6 runs, 6 left" in out and "20 train, 8 selection, 40 test" in out
    assert not (root / "store").exists()


def test_a_grid_of_a_million_runs_is_asked_about(root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    rates = {"from": 1e-6, "to": 1, "per_decade": 20}
    assert go(root, "--jobs", "1", rates=rates, best=400, seeds=list(range(5000))) == 2
    err = capsys.readouterr().err
    assert "runs, about" in err and " h: --yes runs them without asking" in err and not (root / "store").exists()


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_ray_that_is_not_there_is_named(root: Path, capsys: Capture) -> None:
    assert go(root, "--engine", "ray") == 2
    assert "pip install ray" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": ("aflroa",)}, "did you mean 'aflora'"),
        ({"tasks": {"sst3": {"selection_rows": 3}}}, "did you mean 'sst2'"),
        ({"rates": [0.0]}, "rates is 0.0; it must be above 0"),
        ({"rates": [-1e-3]}, "it must be above 0"),
    ],
)
def test_bad_input_is_one_line(root: Path, capsys: Capture, changes: dict[str, Any], words: str) -> None:
    assert go(root, **changes) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and not (root / "store").exists()


def test_wrong_options_are_refused(root: Path, capsys: Capture) -> None:
    assert go(root, "--engine", "locl") == 2
    assert "did you mean 'local'" in capsys.readouterr().err
    assert go(root, "--data", str(root / "none")) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["compare", str(root / "none.yaml")]) == 2


def test_a_store_of_other_sizes_is_named(root: Path, capsys: Capture) -> None:
    from compare.tiny_grid import comparison_of

    Store(root / "store").prepare(comparison_of(root))
    tasks = {"sst2": {**raw_grid(root)["tasks"]["sst2"], "selection_rows": 9}}
    assert go(root, tasks=tasks) == 2
    assert "selection rows, the grid's has 9" in capsys.readouterr().err


def test_a_report_runs_nothing(root: Path, capsys: Capture) -> None:
    from compare.records import record_for
    from compare.tiny_grid import comparison_of

    assert go(root, "--report") == 2
    assert "has no records yet" in capsys.readouterr().err and not (root / "store").exists()
    comparison, store = comparison_of(root), Store(root / "store")
    store.prepare(comparison)
    point = comparison.points["lora"][0]
    settings = comparison.job("lora", "sst2", point, 1).settings
    record = record_for(comparison, "lora", "sst2", point, 1, selection=0.5, test=0.5, settings=settings)
    store.write(record.model_dump(mode="json"))
    assert go(root, "--report") == 0
    assert "lora: the rule" in (root / "store" / "report" / "report.html").read_text(encoding="utf-8")
    assert len(Store(root / "store").records()) == 1
