"""``tapertune train --resume``: every row of METHODS, with its default settings, is the same run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from train.tiny_run import raw_settings, write_data, write_model

from tapertune.events import read_events
from tapertune.methods import METHODS

DECIDING = {"aflora": "freeze", "adalora": "prune", "lora2": "prune"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resume")
    write_model(root / "model")
    write_data(root / "data")
    return root


def write_run(root: Path, method: str) -> Path:
    """A run of 40 steps with the method's own plan."""
    raw = raw_settings(root, method)
    raw.pop("plan", None)
    raw["training"] |= {"num_train_epochs": 8, "save_steps": 8}
    path = root / f"{method}.yaml"
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path


@pytest.mark.parametrize("method", METHODS)
def test_every_methods_default_run(cli: Any, root: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    file, whole, cut = write_run(root, method), root / method / "whole", root / method / "cut"
    assert cli("train", file, "--output-dir", whole).code == 0

    inner = Trainer.training_step
    for stop in (18, 35):  # two kills in one run

        def stops(self: Any, *args: Any, _stop: int = stop, **kwargs: Any) -> Any:
            if self.state.global_step == _stop:
                raise KeyboardInterrupt
            return inner(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "training_step", stops)
            again = ["--resume"] if stop == 35 else []
            assert cli("train", file, "--output-dir", cut, *again).code == 130
    done = cli("train", "--resume", "--output-dir", cut)
    assert done.code == 0, done.err
    for name in ("adapter_model.safetensors", "adapter_config.json", "events.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    types = [event["type"] for event in read_events(cut / "events.jsonl")]
    assert types.count("start") == types.count("end") == 1
    assert method not in DECIDING or DECIDING[method] in types


def test_sigterm_ends_the_command_with_143(cli: Any, root: Path) -> None:
    from tapertune.train.trainer import Checkpointing

    file, inner = write_run(root, "lora"), Checkpointing.on_step_end

    def terminated(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        inner(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpointing, "on_step_end", terminated)
        done = cli("train", file, "--output-dir", root / "terminated", "--training.learning_rate", "1e-3")
    assert done.code == 143 and "tapertune train --resume --output-dir" in done.err
    lines = [line for line in done.err.strip().splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1 and (root / "terminated" / "checkpoint-2").is_dir()
