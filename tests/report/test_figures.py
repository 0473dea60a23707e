from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tapertune.errors import TapertuneError
from tapertune.report import load_run, save_curve, save_heatmap

MakeRun = Callable[..., Path]


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_the_heatmap_has_the_size_of_the_papers(aflora: MakeRun, tmp_path: Path) -> None:
    path = save_heatmap(load_run(aflora()), tmp_path / "figures" / "heatmap.png")
    assert png_size(path) == (1552, 603)
    assert [each.name for each in path.parent.iterdir()] == ["heatmap.png"]


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".PNG"])
def test_the_same_run_gives_the_same_file(aflora: MakeRun, tmp_path: Path, suffix: str) -> None:
    run = load_run(aflora())
    first, second = (save_heatmap(run, tmp_path / f"{name}{suffix}") for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_svg_names_rows_and_ticks(aflora: MakeRun, tmp_path: Path) -> None:
    text = save_heatmap(load_run(aflora(stop=115)), tmp_path / "heatmap.svg").read_text(encoding="utf-8")
    labels = ["out.B", "inter.B", "out.A", "inter.A", "60", "80", "100"]
    assert [label for label in labels if f"<!-- {label} -->" not in text] == []


def test_kinds_of_heatmaps(aflora: MakeRun, adalora: MakeRun, tmp_path: Path) -> None:
    pruned, frozen = load_run(adalora()), load_run(aflora())
    text = save_heatmap(pruned, tmp_path / "ranks.svg").read_text(encoding="utf-8")
    assert [each for each in ("attn.out", "inter", "query", "12") if f"<!-- {each} -->" not in text] == []
    assert png_size(save_heatmap(pruned, tmp_path / "ranks.png", kind="ranks")) == (1552, 603)
    assert png_size(save_heatmap(replace(frozen, ranks=pruned.ranks), tmp_path / "both.png")) == (1552, 1206)
    with pytest.raises(TapertuneError, match="no matrix froze in this run"):
        save_heatmap(pruned, tmp_path / "heatmap.png", kind="freezing")
    with pytest.raises(TapertuneError, match="no rank could be pruned in this run"):
        save_heatmap(frozen, tmp_path / "heatmap.png", kind="ranks")
    with pytest.raises(TapertuneError, match=r"unknown kind of a heatmap 'rank'.*ranks"):
        save_heatmap(frozen, tmp_path / "heatmap.png", kind="rank")


def test_curves(aflora: MakeRun, lora: MakeRun, tmp_path: Path) -> None:
    runs = [load_run(aflora()), load_run(lora())]
    assert png_size(save_curve(runs, tmp_path / "curves.png")) == (800, 450)
    assert png_size(save_curve(runs[0], tmp_path / "curve.png")) == (800, 450)


def test_bad_input(aflora: MakeRun, lora: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(TapertuneError, match="no matrix froze and no rank could be pruned"):
        save_heatmap(load_run(lora()), tmp_path / "heatmap.png")
    with pytest.raises(TapertuneError, match=r"unknown format of a figure '\.jpg'.*Allowed: \.pdf, \.png, \.svg"):
        save_heatmap(load_run(aflora()), tmp_path / "heatmap.jpg")
    with pytest.raises(TapertuneError, match="no run to draw"):
        save_curve([], tmp_path / "curve.png")


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = "import sys, tapertune.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_matplotlib_the_message_says_what_to_install(
    aflora: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(TapertuneError, match=r"figures need matplotlib: pip install matplotlib"):
        save_heatmap(load_run(aflora()), tmp_path / "heatmap.png")
