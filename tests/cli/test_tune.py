from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest


def test_bad_options_are_one_line(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: minilm\ntask: sst2\nmethod: lora\n", encoding="utf-8")
    none = cli("tune", file, "--trials", 0)
    assert (none.code, none.err.count("\n")) == (2, 1) and "--trials" in none.err
    monkeypatch.setitem(sys.modules, "optuna", None)
    absent = cli("tune", file)
    assert (absent.code, absent.err.count("\n")) == (2, 1)
    assert "tapertune tune needs optuna: pip install optuna" in absent.err
