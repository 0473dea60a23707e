from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from train.tiny_run import raw_settings, write_data, write_model

from tapertune.runfile.record import read_record


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("train")
    write_model(root / "model")
    write_data(root / "data")
    (root / "run.yaml").write_text(json.dumps(raw_settings(root)), encoding="utf-8")
    return root


def test_a_run_file_with_overrides(cli: Any, root: Path) -> None:
    folder = root / "a"
    done = cli("train", "--method.r", "2", root / "run.yaml", "--training.num-train-epochs=2", "--output-dir", folder)
    assert done.code == 0, done.err
    record = read_record(folder)
    assert (record.status, record.steps, record.settings["method"]) == ("done", 10, {"name": "aflora", "r": 2})
    assert (folder / "report.html").stat().st_size > 1000
    assert f"report:  {folder / 'report.html'}" in done.out
    assert "step 10/10" in done.out and "frozen" in done.out
    assert "averaged over training" in done.out
    assert "accuracy" in done.out


def test_options_alone(cli: Any, root: Path) -> None:
    options = {
        "model": root / "model",
        "task": "sst2",
        "method": "head",
        "data": root / "data",
        "output-dir": root / "b",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    done = cli("train", *arguments, "--task.max_length", 16, "--training.max_steps", 2)
    assert done.code == 0, done.err
    assert read_record(root / "b").method == "head"
    again = cli("train", *arguments, "--task.max_length", 16, "--training.max_steps", 2)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "holds another run" in again.err
    replaced = cli("train", *arguments, "--task.max_length", 16, "--training.max_steps", 2, "--overwrite")
    assert replaced.code == 0


def test_an_interrupted_run_is_resumed_from_its_folder_alone(
    cli: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tapertune.train.progress import LineDisplay

    def stop(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LineDisplay, "on_step_end", stop)
        done = cli("train", root / "run.yaml", "--output-dir", root / "c")
    assert done.code == 130
    assert read_record(root / "c").status == "interrupted"
    resumed = cli("train", "--resume", "--output-dir", root / "c")
    assert resumed.code == 0, resumed.err
    assert read_record(root / "c").status == "done"
    assert cli("train", "--resume", "--output-dir", root / "c").code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run.yaml", "--ouput-dir", "x"], "unknown setting 'ouput_dir': did you mean 'output_dir'?"),
        (["run.yaml", "--method.rr", "3"], "'rr'"),
        (["run.yaml", "--training.learning_rat", "3"], "did you mean 'training.learning_rate'?"),
        (["run.yaml", "other.yaml"], "one run file, not 2"),
        (["none.yaml"], "cannot read 'none.yaml'"),
        (["run.yaml", "--method", "lora", "--method.name", "lora"], "method.name is given twice"),
        (["run.yaml", "--method.r"], "--method.r has no value"),
        (["run.yaml", "--method", "lorra"], "unknown method 'lorra': did you mean 'lora'?"),
        ([], "setting model is missing"),
    ],
)
def test_wrong_usage_is_one_line_and_two(
    cli: Any, root: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(root)
    done = cli("train", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err
    assert not os.path.exists(root / "run")
