"""``tapertune train`` under launchers: one log, one report, one folder; a process that dies; another number of
processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from train.tiny_run import raw_settings

from tapertune.events import read_events
from tapertune.runfile.recipes import recipe_folder
from tapertune.runfile.record import read_record
from tapertune.train.run_folder import whole_checkpoints

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
SPLIT = {"training__per_device_train_batch_size": 4, "training__max_steps": 12, "training__save_strategy": "steps"}


def run_file(root: Path, method: str, **changes: Any) -> Path:
    path = root / f"{method}.yaml"
    path.write_text(yaml.safe_dump({**raw_settings(root, method, **changes), "output_dir": str(root / method)}))
    return path


def started(command: list[str], **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def done(command: list[str]) -> tuple[int, str, str]:
    process = started(command)
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


def test_accelerate_and_torchrun_write_one_run(root: Path) -> None:
    config = str(recipe_folder() / "distributed" / "ddp.yaml")
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    accelerate += ["--num_processes", "2", "-m"]
    for launcher, method in ((accelerate, "aflora"), (TORCHRUN, "adalora")):
        code, out, err = done([*launcher, "tapertune", "train", str(run_file(root, method))])
        assert code == 0, err
        assert out.count("report:") == out.count("adapter:") == 1
        events = [event["type"] for event in read_events(root / method / "events.jsonl")]
        assert events.count("start") == events.count("end") == 1
        assert read_record(root / method).status == "done"
        assert len(list((root / method).glob("**/report.html"))) == 1


def test_a_process_that_dies_ends_the_run_with_a_line(root: Path) -> None:
    path = run_file(root, "aflora", **SPLIT, training__save_steps=2, training__max_steps=4000)
    run = started([*TORCHRUN, "tapertune", "train", str(path)], start_new_session=True)
    try:
        until = time.monotonic() + 300
        while not whole_checkpoints(root / "aflora") and time.monotonic() < until:
            time.sleep(0.2)
        os.kill(next(pid for pid in children(run.pid) if b"RANK=1" in environment(pid)), signal.SIGKILL)
        _, err = run.communicate(timeout=200)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "another process of this run has ended" in lines[0] and "--resume" in lines[0]
    assert whole_checkpoints(root / "aflora") and read_record(root / "aflora").status == "failed"


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def environment(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_a_run_goes_on_with_another_number_of_processes(root: Path) -> None:
    """Batches of the same size may be split otherwise; batches of another size are refused."""
    path = run_file(root, "adalora", **SPLIT, training__save_steps=4)
    assert done([*TORCHRUN, "tapertune", "train", str(path)])[0] == 0
    folder = root / "adalora"
    events = (folder / "events.jsonl").read_text()
    interrupt(folder, whole_checkpoints(folder)[0])
    resume = [sys.executable, "-m", "tapertune", "train", "--resume", "--output-dir", str(folder)]
    code, _, err = done(resume)
    assert code == 2 and "the stopped run had processes 2, this one has 1" in err and err.count("error: ") == 1
    code, _, err = done([*resume, "--training.gradient_accumulation_steps", "2"])
    assert code == 0, err
    assert read_record(folder).status == "done"
    left = [sum(last_ranks(text).values()) for text in ((folder / "events.jsonl").read_text(), events)]
    assert left[0] == left[1] and (folder / "events.jsonl").read_text().count('"start"') == 1


def last_ranks(events: str) -> dict[str, int]:
    return [json.loads(line)["ranks"] for line in events.splitlines() if '"prune"' in line][-1]


def test_the_file_for_fsdp2_splits_weights(root: Path) -> None:
    config = str(recipe_folder() / "distributed" / "fsdp2.yaml")
    script = str(Path(__file__).parent / "fsdp2_script.py")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", "2"]
    code, _, err = done([*launch, script, str(root / "ranks")])
    assert code == 0, err
    first, second = (json.loads((root / f"ranks-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and sum(first["ranks"].values()) == 2 * len(first["ranks"])


def interrupt(folder: Path, checkpoint: Path) -> None:
    """Makes a folder that of a run that was stopped after a checkpoint."""
    for other in whole_checkpoints(folder):
        if other != checkpoint:
            shutil.rmtree(other)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
