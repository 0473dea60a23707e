"""The prepared script for a card, dry: every row at toy sizes, on the processor."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def script() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_every_row_and_what_a_cut_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu, out = script(), tmp_path / "gpu.json"
    # out of time at once: no row begins, and nothing is written
    assert gpu.main(["--toy", "--compile", "none", "--out", str(out), "--minutes", "-1"]) == 0
    assert not out.exists() and "no time left" in capsys.readouterr().err
    assert gpu.main(["--toy", "--compile", "none", "--out", str(out)]) == 0
    saved = json.loads(out.read_text())
    names = {f"llama-1x64/{name}" for name in gpu.variants(4)}
    assert names | {"llama-1x64/4 tokens/node", "llama-1x64/4 tokens/operations"} == set(saved["rows"])
    assert all(row["seconds"] > 0 and row["tokens_per_second"] > 0 for row in saved["rows"].values())
    assert "| llama-1x64 | lora |" in capsys.readouterr().out
    # cut off after some rows: the next call measures the others alone
    kept = dict(list(saved["rows"].items())[:-2])
    out.write_text(json.dumps({**saved, "rows": kept}))
    assert gpu.main(["--toy", "--compile", "none", "--out", str(out)]) == 0
    again = json.loads(out.read_text())["rows"]
    assert set(again) == set(saved["rows"]) and {name: again[name] for name in kept} == kept


def test_without_a_card_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a card")
    assert script().main(["--out", str(tmp_path / "gpu.json")]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_the_page_is_written_between_its_marks(tmp_path: Path) -> None:
    gpu, page = script(), tmp_path / "page.md"
    page.write_text("before\n<!-- gpu:start -->\nold\n<!-- gpu:end -->\nafter\n")
    gpu.write_page(page, "| a |")
    assert page.read_text() == "before\n<!-- gpu:start -->\n\n| a |\n\n<!-- gpu:end -->\nafter\n"
    real = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    assert all(real.count(mark) == 1 for mark in gpu.MARK)
    page.write_text("no marks")
    with pytest.raises(gpu.TapertuneError, match="has no"):
        gpu.write_page(page, "| a |")
