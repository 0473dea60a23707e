"""What stops a run, and what is there afterwards: signals, damaged checkpoints, folders in use, replaced runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from train.tiny_run import raw_settings

from tapertune.errors import TapertuneError
from tapertune.events import read_events
from tapertune.integrations.manifest import MANIFEST
from tapertune.lock import locked
from tapertune.runfile.record import FILE, read_record, write_end
from tapertune.runfile.settings import check_settings
from tapertune.train.progress import Display
from tapertune.train.replaced import put_back, recover, set_aside
from tapertune.train.run_folder import ASIDE, LOCK, MARK, MOVING, checkpoints, whole_checkpoints
from tapertune.train.runner import run
from tapertune.train.trainer import Checkpointing, Costs, Terminated

ADAPTER = "adapter_model.safetensors"


class At(Display):
    """Does something after a step."""

    def __init__(self, step: int, act: Callable[[], Any]) -> None:
        super().__init__()
        self.step, self.act = step, act

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.act()


def interrupt() -> None:
    raise KeyboardInterrupt


def quick(root: Path, **changes: Any) -> Any:
    """A run of 5 steps with checkpoints at 2 and 4."""
    return check_settings(raw_settings(root, "lora", training__max_steps=5, training__save_steps=2, **changes))


@pytest.fixture(scope="module")
def stopped(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was interrupted after its checkpoints of steps 2 and 4."""
    root = tmp_path_factory.mktemp("stopped")
    for name in ("model", "data"):
        (root / name).symlink_to(shared_root / name)
    with pytest.raises(KeyboardInterrupt):
        run(quick(root), display=At(5, interrupt))
    return root


@pytest.fixture
def copied(stopped: Path, root: Path) -> Any:
    """Settings of the interrupted run, and a copy of its folder."""
    shutil.copytree(stopped / "run", root / "run")
    raw = json.loads((root / "run" / FILE).read_text())
    raw["settings"] = quick(root).resolved()
    (root / "run" / FILE).write_text(json.dumps(raw))
    return quick(root)


# ---- damaged checkpoints ---------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Another number in a file of the same length."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


NAMES = (ADAPTER, "adapter_config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", MARK,
         "tapertune_state.safetensors")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", ["missing", "shorter", "changed"])
def test_a_damaged_checkpoint_is_passed_over(copied: Any, name: str, damage: str) -> None:
    from tapertune.train.run_folder import check_resume

    path = Path(copied.output_dir) / "checkpoint-4" / name
    {"missing": path.unlink, "shorter": lambda: os.truncate(path, 20), "changed": lambda: flip(path)}[damage]()
    checkpoint, notes = check_resume(Path(copied.output_dir), copied)
    assert checkpoint is not None and checkpoint.name == "checkpoint-2"
    assert notes[0].startswith(f"checkpoint-4 is passed over: {name} ") and "checkpoint-2" in notes[1]


def test_the_run_goes_on_from_an_older_checkpoint(copied: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(copied.output_dir)
    os.truncate(folder / "checkpoint-4" / "optimizer.pt", 100)
    assert run(copied, resume=True)["steps"] == 5
    assert "note: checkpoint-4 is passed over: optimizer.pt has 100 bytes" in capsys.readouterr().err
    assert [path.name for path in whole_checkpoints(folder)] == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]


def test_without_a_whole_checkpoint_nothing_is_resumed(copied: Any) -> None:
    folder = Path(copied.output_dir)
    for step in (2, 4):
        (folder / f"checkpoint-{step}" / "rng_state.pth").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(TapertuneError, match=r"no checkpoint in .* is whole.*checkpoint-4: rng_state\.pth is missing"):
        run(copied, resume=True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_first_checkpoint_that_was_cut_short_counts_as_none(copied: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(copied.output_dir)
    shutil.rmtree(folder / "checkpoint-4")
    for name in (MARK, MANIFEST):
        (folder / "checkpoint-2" / name).unlink()
    assert run(copied, resume=True)["steps"] == 5
    assert "holds no whole checkpoint yet: the run begins anew, at step 0" in capsys.readouterr().err
    assert [event["type"] for event in read_events(folder / "events.jsonl")].count("start") == 1


def test_checkpoints_of_earlier_versions_have_no_manifest(copied: Any) -> None:
    folder = Path(copied.output_dir)
    for path in checkpoints(folder):
        (path / MANIFEST).unlink()
        mark = json.loads((path / MARK).read_text())
        (path / MARK).write_text(json.dumps({**mark, "version": 1}))
    assert [path.name for path in whole_checkpoints(folder)] == ["checkpoint-2", "checkpoint-4"]


def test_one_checkpoint_is_kept_until_the_next_is_marked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tapertune.train import trainer

    there: list[list[str]] = []
    inner = trainer.write_manifest

    def look(folder: Path) -> None:
        there.append([path.name for path in whole_checkpoints(folder.parent)])
        inner(folder)

    monkeypatch.setattr(trainer, "write_manifest", look)
    run(quick(root, training__save_total_limit=1))
    assert there == [[], ["checkpoint-2"], ["checkpoint-4"]]
    assert [path.name for path in checkpoints(root / "run")] == ["checkpoint-5"]


def test_the_oldest_go_by_their_steps_whatever_the_clock_says(root: Path) -> None:
    old = time.time() - 10**6

    def set_back() -> None:
        for number, path in enumerate(reversed(checkpoints(root / "run"))):
            os.utime(path, (old + number, old + number))

    run(quick(root, training__save_total_limit=2), display=At(5, set_back))
    assert [path.name for path in checkpoints(root / "run")] == ["checkpoint-4", "checkpoint-5"]


# ---- replacing a run -------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(copied: Any) -> tuple[Any, dict[str, bytes]]:
    """Settings of a run that is done, and the files of its folder."""
    run(copied, resume=True)
    return copied, contents(Path(copied.output_dir))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__report_to": "wandb"}, "wandb"),
        ({"training__optim": "adamw_bnb_8bit"}, "bitsandbytes"),
        ({"training__optim": "no_such_optimizer"}, "no_such_optimizer"),
        ({"model": "no/such-model"}, "no/such-model"),
        ({"task__data": "/no/such"}, "no such data folder"),
        ({"method__target_modules": ["nowhere"]}, "nowhere"),
    ],
)
def test_what_cannot_start_replaces_nothing(finished: Any, root: Path, changes: dict[str, Any], message: str) -> None:
    _, files = finished
    with pytest.raises(TapertuneError) as caught:
        run(quick(root, **changes), overwrite=True)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert contents(root / "run") == files


def test_what_fails_or_stops_before_its_first_checkpoint_replaces_nothing(finished: Any) -> None:
    settings, files = finished
    folder = Path(settings.output_dir)

    def fail() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(settings, overwrite=True, display=At(1, fail))
    assert contents(folder) == files
    with pytest.raises(KeyboardInterrupt, match="the run that was to be replaced is back"):
        run(settings, overwrite=True, display=At(1, interrupt))
    assert contents(folder) == files


def test_the_earlier_run_goes_when_the_first_checkpoint_is_whole(finished: Any) -> None:
    settings, _ = finished
    folder, there = Path(settings.output_dir), []
    (folder / "notes.txt").write_text("mine")

    def look() -> None:
        there.append((folder / ASIDE / ADAPTER).exists())

    with pytest.raises(KeyboardInterrupt, match=r"tapertune train --resume --output-dir .*goes on from checkpoint-2"):
        run(settings, overwrite=True, display=Each(look, stop=3))
    assert there == [True, True, False]
    assert read_record(folder).status == "interrupted" and (folder / "notes.txt").read_text() == "mine"
    assert run(settings, resume=True)["status"] == "done"


class Each(Display):
    def __init__(self, act: Callable[[], Any], stop: int) -> None:
        super().__init__()
        self.act, self.stop = act, stop

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.act()
        if state.global_step == self.stop:
            raise KeyboardInterrupt


def test_a_kill_at_any_rename_loses_neither_run(copied: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, inner = Path(copied.output_dir), os.rename
    (source / ADAPTER).write_bytes(b"weights")
    files = contents(source)
    count = len(list(source.iterdir())) + 1
    for allowed in range(2 * count + 1):
        folder = tmp_path / f"run-{allowed}"
        shutil.copytree(source, folder)
        left = [allowed]

        def rename(old: Any, new: Any, left: list[int] = left) -> None:
            if not left[0]:
                raise InterruptedError("killed")
            left[0] -= 1
            inner(old, new)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", rename)
            try:
                set_aside(folder)
                (folder / FILE).write_text("{}")  # the new run, killed before its first checkpoint
                put_back(folder)
            except InterruptedError:
                pass
        recover(folder, resume=False)
        assert contents(folder) == files, allowed
        assert not (folder / ASIDE).exists() and not (folder / MOVING).exists()


def test_a_run_that_failed_before_its_first_checkpoint_blocks_no_other(root: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="begins anew: there is no checkpoint yet"):
        run(quick(root), display=At(1, interrupt))
    assert read_record(root / "run").status == "interrupted"
    assert run(quick(root))["status"] == "done"


def test_what_a_kill_leaves_before_the_record_is_no_other_run(root: Path) -> None:
    folder = root / "run"
    folder.mkdir()
    for name in (f"{FILE}.tmp", LOCK):
        (folder / name).write_text("{")
    assert run(quick(root, training__save_strategy="no"))["status"] == "done"
    assert not (folder / LOCK).exists()


# ---- one run in a folder ---------------------------------------------------------------------------------------------


def test_a_folder_in_use_names_its_owner(copied: Any) -> None:
    folder = Path(copied.output_dir)
    with locked(folder):
        for options in ({"resume": True}, {"overwrite": True}, {}):
            with pytest.raises(TapertuneError, match=rf"is in use by process {os.getpid()} on .* since 2"):
                run(copied, **options)
    assert not (folder / LOCK).exists()


def test_the_lock_dies_with_its_owner(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tapertune.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('here', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        with pytest.raises(TapertuneError, match=f"process {process.pid} "), locked(tmp_path):
            pass
        process.kill()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


# ---- signals and disks -----------------------------------------------------------------------------------------------


def test_sigterm_writes_a_checkpoint_and_the_run_is_the_same(root: Path) -> None:
    run(quick(root, output_dir=str(root / "whole")))
    settings = quick(root)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated, match=r"--resume .* goes on from checkpoint-3"):
        run(settings, display=At(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert signal.getsignal(signal.SIGTERM) == before
    assert read_record(root / "run").status == "interrupted"
    run(settings, resume=True)
    whole, cut = (load_file(root / name / ADAPTER) for name in ("whole", "run"))
    assert all(whole[name].equal(cut[name]) for name in whole)
    assert (root / "whole" / "events.jsonl").read_bytes() == (root / "run" / "events.jsonl").read_bytes()


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    inner = torch.save

    def full(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if "checkpoint-4" in str(path):
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        inner(value, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space left"):
            run(quick(root))
    assert [path.name for path in checkpoints(root / "run")] == ["checkpoint-2"]
    record = read_record(root / "run")
    assert record.status == "failed" and "No space left" in str(record.error)
    assert run(quick(root), resume=True)["status"] == "done"


def test_a_failure_is_told_whatever_signals_come(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher sends SIGTERM to what is left of a run of which a process has died: during the save that fails, and
    while the failure is written."""
    import torch

    from tapertune.train import runner

    inner, end = torch.save, runner.write_end

    def fail(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if "checkpoint-4" in str(path):
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("Connection closed by peer")
        inner(value, path, *args, **kwargs)

    def write(folder: Path, record: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        end(folder, record)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        patch.setattr(runner, "write_end", write)
        with pytest.raises(RuntimeError, match="closed by peer"):
            run(quick(root))
    assert signal.getsignal(signal.SIGTERM) == before
    record = read_record(root / "run")
    assert record.status == "failed" and "closed by peer" in str(record.error)
    assert [path.name for path in checkpoints(root / "run")] == ["checkpoint-2"]


def test_a_process_without_the_others_says_so_before_it_ends() -> None:
    """SIGTERM may come until the very end: behind the run, too."""
    before, checkpointing = signal.getsignal(signal.SIGTERM), Checkpointing(Costs())
    try:
        with checkpointing.heeding_sigterm():
            checkpointing.end(lost=True)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_state_is_right_even_where_nothing_can_be_written(copied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tapertune.runfile import record as records

    folder = Path(copied.output_dir)
    running = read_record(folder).model_copy(update={"status": "running"})
    records.write_record(folder, running)

    def full(path: Path, data: Any) -> None:
        raise TapertuneError(f"cannot write {path}: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(records, "write_json", full)
        write_end(folder, running.model_copy(update={"status": "failed", "error": "x"}))
    assert read_record(folder).status == "failed"


def test_a_folder_that_vanishes_ends_the_run(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the run's folder .*run' is gone"):
        run(quick(root), display=At(3, lambda: shutil.rmtree(root / "run")))
    assert not (root / "run" / ADAPTER).exists()
