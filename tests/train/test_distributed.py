"""Two processes train, evaluate and predict what one would: the same files, written once, with the same numbers."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from tasks.tiny_text import llama
from torch import multiprocessing
from train.distributed_worker import worker
from train.tiny_run import raw_settings
from train.tiny_written import settings, write

from tapertune.cli.main import main
from tapertune.events import read_events
from tapertune.runfile.record import read_record
from tapertune.train.run_folder import MARK, whole_checkpoints

ROWS = 40  # of tiny_run's data


@pytest.fixture(scope="module")
def two(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders and files that two processes have written."""
    root = tmp_path_factory.mktemp("processes")
    for name in ("model", "data"):
        (root / name).symlink_to(shared_root / name)
    (root / "texts").mkdir()
    write(root / "texts", llama())
    _run_file(root / "classes", raw_settings(root, "aflora"))
    streamed = raw_settings(root, "lora", task__stream=True, training__max_steps=4)
    _run_file(root / "stream", streamed)
    _run_file(root / "written", settings(root / "texts", "lora", {"name": "prompt_completion"}).resolved())
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    trained = [["train", f"{root / name}.yaml"] for name in ("classes", "stream", "written")]
    multiprocessing.spawn(worker, args=(port, [*trained, *applied(root, "two")]), nprocs=2)
    return root


def _run_file(folder: Path, raw: dict[str, Any]) -> None:
    folder.with_suffix(".yaml").write_text(yaml.safe_dump({**raw, "output_dir": str(folder)}))


def applied(root: Path, name: str) -> list[list[str]]:
    """Commands that apply what was trained."""
    evaluate = [["evaluate", str(root / run), "--batch-size", "3"] for run in ("classes", "written")]
    predict = [["predict", str(root / "classes"), str(root / "data" / "validation.jsonl"), "--batch-size", "3"]]
    commands = [*evaluate, *predict]
    suffixes = ("a.json", "b.json", "c.jsonl")
    return [[*one, "--out", f"{root / name}-{end}"] for one, end in zip(commands, suffixes, strict=True)]


def test_two_processes_find_what_one_finds(two: Path) -> None:
    for command in applied(two, "one"):
        assert main(command) == 0
    for end in ("a.json", "b.json", "c.jsonl"):
        ours, theirs = ((two / f"{name}-{end}").read_bytes() for name in ("two", "one"))
        assert ours == theirs
    assert json.loads((two / "one-b.json").read_text())["splits"]["validation"]["score"]["count"] == 24
    assert len((two / "one-c.jsonl").read_text().splitlines()) == ROWS


def test_a_run_of_two_processes_is_one_run(two: Path) -> None:
    record = read_record(two / "classes")
    assert (record.status, record.steps) == ("done", 9)  # 40 rows are 5 batches an epoch, 3 for each process
    assert record.metrics is not None and record.parameters is not None
    events = read_events(two / "classes" / "events.jsonl")
    assert [event["type"] for event in events].count("start") == 1
    assert record.metrics == [event for event in events if event["type"] == "eval"][-1]["metrics"]
    assert record.parameters.end < record.parameters.average < record.parameters.start
    costs = json.loads((whole_checkpoints(two / "classes")[-1] / MARK).read_text())
    assert costs["rows"] >= 3 * ROWS  # of both processes
    main(["evaluate", str(two / "classes"), "--out", str(two / "again.json")])
    again = json.loads((two / "again.json").read_text())["splits"]["validation"]["metrics"]
    assert again == record.metrics


def test_a_stream_is_shared_too(two: Path) -> None:
    record = read_record(two / "stream")
    assert (record.status, record.steps) == ("done", 4)
    assert record.rows is not None and record.rows["train"].rows >= 4 * 2 * 8
