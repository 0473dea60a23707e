"""Formats and places of reports; what is in them is tested with the report itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapertune.events import EventLog


def make_run(folder: Path) -> Path:
    factors = [
        {
            "name": f"encoder.{layer}.fc.{factor}",
            "module": f"encoder.{layer}.fc",
            "factor": factor,
            "layer": layer,
            "row": f"fc.{factor}",
            "kind": "ffn",
            "shape": [4, 8],
            "trainable": True,
        }
        for layer in range(2)
        for factor in ("A", "B")
    ]
    log = EventLog(folder / "events.jsonl")
    plan = {"policy": {"kind": "lowest_fraction"}}
    shared = {"method": "aflora", "adapter": "default", "total_steps": 40, "plan": plan}
    log("start", 0, **shared, factors=factors, other_trainable=10, trainable=138)
    log("freeze", 10, names=["encoder.0.fc.A"], threshold=0.1, remaining=0.7, trainable=106)
    log("freeze", 20, names=["encoder.1.fc.B"], threshold=0.1, remaining=0.3, trainable=74)
    log("end", 40, trainable=74, average_trainable=95.0)
    record = {"schema_version": 1, "status": "done", "name": folder.name, "method": "aflora", "seed": 1}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    return [make_run(tmp_path / name) for name in ("one", "two")]


MAGIC = {"html": b"<!doctype html", "md": b"# ", "png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.mark.parametrize("format", MAGIC)
def test_one_run_is_written_into_its_folder(cli: Any, runs: list[Path], format: str) -> None:
    done = cli("report", runs[0], "--format", format)
    written = runs[0] / f"{'report' if format in ('html', 'md') else 'heatmap'}.{format}"
    assert (done.code, done.out, done.err) == (0, f"{written}\n", "")
    assert written.read_bytes().lower().startswith(MAGIC[format].lower())


@pytest.mark.parametrize("format", MAGIC)
def test_several_runs_are_compared(cli: Any, runs: list[Path], format: str) -> None:
    done = cli("report", *runs, "--format", format)
    assert (done.code, done.out) == (0, f"comparison.{format}\n")
    assert Path(f"comparison.{format}").read_bytes().lower().startswith(MAGIC[format].lower())


@pytest.mark.parametrize("kind", ["heatmap", "freezing", "curves"])
def test_a_figure_has_a_kind(cli: Any, runs: list[Path], kind: str) -> None:
    done = cli("report", runs[0], "--format", "svg", "--kind", kind)
    assert (done.code, done.out) == (0, f"{runs[0] / kind}.svg\n"), done.err
    text = (runs[0] / f"{kind}.svg").read_text(encoding="utf-8")
    assert ("<!-- trainable parameters -->" in text) is (kind == "curves")


def test_a_heatmap_is_of_one_run(cli: Any, runs: list[Path]) -> None:
    done = cli("report", *runs, "--format", "png", "--kind", "freezing")
    assert (done.code, done.err) == (2, "error: kind freezing is of one run, not of 2: curves compares several\n")
    assert not Path("comparison.png").exists()


def test_html_is_the_default(cli: Any, runs: list[Path]) -> None:
    assert cli("report", runs[0]).code == 0
    assert (runs[0] / "report.html").is_file()


def test_suffix_of_out_decides(cli: Any, runs: list[Path]) -> None:
    assert cli("report", runs[0], "--out", "new/folder/x.markdown").code == 0
    assert Path("new/folder/x.markdown").read_text().startswith("# one")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.docx"], "unknown suffix of --out '.docx'"),
        (["--out", "x.png", "--format", "svg"], "--format is svg, but --out 'x.png' ends in .png"),
        (["--format", "gif"], "gif"),
        (["--format", "png", "--kind", "curve"], "unknown kind of a figure 'curve': did you mean 'curves'? Allowed: "),
        (["--format", "png", "--kind", "ranks"], "no rank could be pruned in this run, so there is no heatmap to draw"),
        (["--kind", "ranks"], "--kind is of a figure, and the report is html: add --format png, svg or pdf"),
    ],
)
def test_formats_that_cannot_be(cli: Any, runs: list[Path], arguments: list[str], message: str) -> None:
    done = cli("report", runs[0], *arguments)
    assert done.code == 2
    assert message in done.err
    assert not list(Path().glob("x.*"))


def test_folders_that_are_no_runs(cli: Any, runs: list[Path]) -> None:
    done = cli("report", "nowhere")
    assert done.code == 2
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    (runs[0] / "run.json").write_text('{"schema_version": 99}')
    assert "reads up to" in cli("report", runs[0]).err
    assert cli("report").code == 2


def test_what_a_killed_process_was_writing_goes(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    for name in (".0123456789abcdef.tmp", ".0123456789abcdef.tmp.html", ".tmpxz4ZaS", "notes.tmp"):
        (tmp_path / name).write_text("half")
    cli("report", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".html") == ["notes.tmp", "run.json"]
