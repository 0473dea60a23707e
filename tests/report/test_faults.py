"""Reports of runs whose files are damaged: what is whole is drawn, and what is not is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapertune.errors import TapertuneError
from tapertune.report import load_run, render_html, render_markdown

MakeRun = Callable[..., Path]


def lines_of(folder: Path) -> list[bytes]:
    return (folder / "events.jsonl").read_bytes().split(b"\n")


def of_type(lines: list[bytes], kind: str) -> int:
    return next(i for i, line in enumerate(lines) if f'"type":"{kind}"'.encode() in line)


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("freeze", b"\xff", "not an event"),
        ("freeze", {"names": ["x"]}, "'x' is no factor of the start event"),
        ("freeze", {"names": "x"}, "names is 'x'; it must be"),
        ("freeze", {"trainable": 1.5}, "trainable is 1.5"),
        ("loss", {"loss": "low"}, "loss is 'low'; it must be a number"),
        ("loss", {"step": True}, "step is True"),
        ("loss", {"step": 10**30}, "step is 1000"),
        ("loss", {"v": "1"}, "v is '1'"),
        ("loss", {"type": "lose"}, "unknown event type 'lose'"),
        ("loss", {"type": ["loss"]}, "unknown event type"),
        ("eval", {"metrics": [1]}, "metrics is"),
        ("eval", {"metrics": {"eval_accuracy": "high"}}, "metrics.eval_accuracy is 'high'"),
        ("end", {"trainable": None}, "trainable is None"),
    ],
)
def test_one_bad_event(kind: str, change: Any, says: str, aflora: MakeRun) -> None:
    folder = aflora()
    whole, lines = load_run(folder), lines_of(folder)
    number = of_type(lines, kind)
    broken = (
        change + lines[number]
        if isinstance(change, bytes)
        else json.dumps({**json.loads(lines[number]), **change}).encode()
    )
    lines[number] = broken
    (folder / "events.jsonl").write_bytes(b"\n".join(lines))
    run = load_run(folder)
    assert len(run.faults) == 1 and says in run.faults[0] and "events.jsonl" in run.faults[0]
    assert run.notice is not None and run.faults[0] in run.notice
    assert run.heatmap is not None and whole.heatmap is not None
    assert whole.heatmap.frozen - run.heatmap.frozen <= 4 and len(run.losses) >= len(whole.losses) - 1
    assert "could be used" in render_html([run]) and "could be used" in render_markdown([run])


def test_a_start_that_cannot_be_read_is_named(aflora: MakeRun) -> None:
    folder = aflora()
    lines = lines_of(folder)
    (folder / "events.jsonl").write_bytes(b"\n".join([b"\xff", *lines[1:]]))
    with pytest.raises(TapertuneError, match=r"events\.jsonl, line 1: not an event, and no other event says"):
        load_run(folder)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"time": [0]}, "time is [0]; it must be an object"),
        ({"time": {"train_seconds": "long"}}, "time.train_seconds is 'long'; it must be a number"),
        ({"memory": {"peak_rss_bytes": 10**400}}, "memory.peak_rss_bytes is 1000"),
        ({"task": 3}, "task is 3; it must be text"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"settings": "all"}, "settings is 'all'"),
    ],
)
def test_one_bad_field_of_the_record(fields: dict[str, Any], says: str, lora: MakeRun) -> None:
    run = load_run(lora(**fields))
    assert len(run.faults) == 1 and says in run.faults[0]
    assert "could be used" in render_html([run]) and run.score is not None and len(run.losses) == 78


def test_many_faults_are_counted(aflora: MakeRun) -> None:
    folder = aflora()
    lines = lines_of(folder)
    (folder / "events.jsonl").write_bytes(b"\n".join([lines[0], *[b"x"] * 9, *lines[1:]]))
    run = load_run(folder)
    assert len(run.faults) == 9 and run.notice is not None and "; and 4 more" in run.notice
