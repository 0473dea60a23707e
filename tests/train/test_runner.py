"""Whole runs of a tiny model: what they write, that they repeat, and that stopping changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train.tiny_run import raw_settings

from tapertune.errors import TapertuneError
from tapertune.events import read_events
from tapertune.runfile.record import read_record
from tapertune.runfile.settings import check_settings
from tapertune.train.progress import Display
from tapertune.train.run_folder import MARK, checkpoints, whole_checkpoints
from tapertune.train.runner import run

WEIGHTS = {"aflora": "adapter_model.safetensors", "lora": "adapter_model.safetensors", "full": "model.safetensors"}


class Stop(Display):
    """Interrupts a run after a step, as Ctrl-C would."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def go(root: Path, method: str = "aflora", **changes: Any) -> dict[str, Any]:
    return run(check_settings(raw_settings(root, method, **changes)))


@pytest.fixture(scope="module")
def done(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished AFLoRA run."""
    root = tmp_path_factory.mktemp("done")
    for name in ("model", "data"):
        (root / name).symlink_to(shared_root / name)
    go(root)
    return root / "run"


def test_the_run_folder_is_complete(done: Path) -> None:
    names = {path.name for path in done.iterdir()}
    assert names == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "all_results.json", "events.jsonl", "run.json",
        "task.json", "trainer_state.json", "checkpoint-4", "checkpoint-8", "checkpoint-12", "checkpoint-15",
    }  # fmt: skip
    record = read_record(done)
    assert (record.status, record.steps, record.method, record.seed) == ("done", 15, "aflora", 7)
    assert record.adapter_bytes == (done / "adapter_model.safetensors").stat().st_size
    assert json.loads((done / "all_results.json").read_text())["eval_accuracy"] == record.metrics["accuracy"]  # type: ignore[index]


def test_the_record_agrees_with_the_events(done: Path) -> None:
    record, events = read_record(done), read_events(done / "events.jsonl")
    assert record.parameters is not None
    kinds = {event["type"] for event in events}
    assert kinds == {"start", "loss", "freeze", "eval", "end"}
    start, end = events[0], events[-1]
    assert record.parameters.start + record.parameters.head == start["trainable"]
    assert record.parameters.end + record.parameters.head == end["trainable"]
    assert record.parameters.average == pytest.approx(end["average_trainable"] - record.parameters.head)
    assert record.parameters.start > record.parameters.average > record.parameters.end
    assert record.parameters.head == start["other_trainable"] == 2 * 16 + 2 + 16 * 16 + 16


def test_the_memory_of_the_optimizer_is_two_moments_a_parameter(done: Path) -> None:
    record = read_record(done)
    assert record.memory is not None and record.parameters is not None
    count = record.parameters.head + record.parameters.start
    assert 0 <= record.memory.optimizer_bytes_start - 8 * count < 1000  # and a step count a tensor
    assert record.memory.optimizer_bytes_end < record.memory.optimizer_bytes_start
    assert record.memory.peak_rss_bytes > 50 * 2**20


def test_the_adapter_loads_as_the_card_says(done: Path, shared_root: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    import tapertune  # noqa: F401

    assert "import tapertune  # first" in (done / "README.md").read_text(encoding="utf-8")
    base = AutoModelForSequenceClassification.from_pretrained(shared_root / "model", num_labels=2)
    model = PeftModel.from_pretrained(base, str(done)).eval()
    saved = load_file(done / "adapter_model.safetensors")
    assert {name.rpartition(".")[0].split(".")[-1] for name in saved if "tapertune" not in name} == {
        "classifier",
        "dense",
    }
    ids = torch.tensor([[2, 5, 7, 3], [2, 6, 7, 3]])
    assert torch.isfinite(model(input_ids=ids).logits).all()


@pytest.mark.parametrize("method", ["aflora", "lora", "full", "head"])
def test_the_same_seed_twice_is_the_same_run(root: Path, method: str) -> None:
    first = go(root, method, output_dir=str(root / "a"))
    second = go(root, method, output_dir=str(root / "b"))
    assert first["metrics"] == second["metrics"]
    assert (root / "a" / "events.jsonl").read_bytes() == (root / "b" / "events.jsonl").read_bytes()
    assert first["parameters"] == second["parameters"]


def test_the_head_starts_alike_whatever_the_method(root: Path) -> None:
    from tapertune.train.models import build

    starts = {}
    for method in ("lora", "aflora", "full", "head"):
        settings = check_settings(raw_settings(root, method))
        built = build(settings, settings.task.declaration())
        weights = [built.model.get_parameter(name).detach() for name in built.head]
        starts[method] = torch.cat([weight.flatten() for weight in weights])
    assert all(torch.equal(start, starts["lora"]) for start in starts.values())


@pytest.mark.parametrize(("method", "step"), [("aflora", 10), ("aflora", 6), ("lora", 9), ("full", 9)])
def test_a_stopped_and_resumed_run_is_bit_for_bit_the_same(root: Path, method: str, step: int) -> None:
    whole = go(root, method, output_dir=str(root / "whole"))
    settings = check_settings(raw_settings(root, method))
    with pytest.raises(KeyboardInterrupt):
        run(settings, display=Stop(step))
    assert read_record(root / "run").status == "interrupted"
    resumed = run(settings, resume=True)
    a, b = (load_file(root / name / WEIGHTS[method]) for name in ("whole", "run"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (root / "whole" / "events.jsonl").read_bytes() == (root / "run" / "events.jsonl").read_bytes()
    for key in ("metrics", "parameters", "score", "flops", "steps"):
        assert whole[key] == resumed[key], key
    assert whole["memory"]["optimizer_bytes_start"] == resumed["memory"]["optimizer_bytes_start"]


def test_a_resume_keeps_rows_grouped_by_length(root: Path) -> None:
    grouped = {"training__train_sampling_strategy": "group_by_length"}
    whole = go(root, output_dir=str(root / "whole"), **grouped)
    settings = check_settings(raw_settings(root, **grouped))
    with pytest.raises(KeyboardInterrupt):
        run(settings, display=Stop(6))
    assert run(settings, resume=True)["metrics"] == whole["metrics"]
    assert (root / "whole" / "events.jsonl").read_bytes() == (root / "run" / "events.jsonl").read_bytes()


def test_a_run_stopped_before_its_first_checkpoint_starts_anew(root: Path) -> None:
    settings = check_settings(raw_settings(root))
    with pytest.raises(KeyboardInterrupt):
        run(settings, display=Stop(2))
    assert run(settings, resume=True)["status"] == "done"


def test_a_checkpoint_cut_short_is_not_resumed_from(root: Path) -> None:
    settings = check_settings(raw_settings(root))
    with pytest.raises(KeyboardInterrupt):
        run(settings, display=Stop(10))
    (root / "run" / "checkpoint-8" / MARK).unlink()
    assert [path.name for path in whole_checkpoints(root / "run")] == ["checkpoint-4"]
    assert run(settings, resume=True)["status"] == "done"


def test_folders_in_use_are_refused(root: Path) -> None:
    settings = check_settings(raw_settings(root, "lora", training__max_steps=2))
    with pytest.raises(TapertuneError, match=r"nothing to resume: '.*run' holds no run"):
        run(settings, resume=True)
    run(settings)
    with pytest.raises(
        TapertuneError, match="holds another run: choose another, or go on with --resume, or --overwrite"
    ):
        run(settings)
    with pytest.raises(TapertuneError, match=r"nothing to resume: the run in '.*run' is done"):
        run(settings, resume=True)
    (root / "run" / "notes.txt").write_text("mine")
    run(settings, overwrite=True)
    assert (root / "run" / "notes.txt").read_text() == "mine"
    (root / "other").mkdir()
    (root / "other" / "notes.txt").write_text("mine")
    with pytest.raises(TapertuneError, match=r"holds files that are no run's, such as 'notes.txt'"):
        run(check_settings(raw_settings(root, output_dir=str(root / "other"))), overwrite=True)
    with pytest.raises(TapertuneError, match="exclude each other"):
        run(settings, resume=True, overwrite=True)


def test_a_resume_with_other_settings_names_them(root: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(check_settings(raw_settings(root)), display=Stop(5))
    changed = check_settings(raw_settings(root, training__learning_rate=0.5, method__r=2))
    with pytest.raises(TapertuneError) as caught:
        run(changed, resume=True)
    assert "method.r (was None, is 2), training.learning_rate (was 0.01, is 0.5)" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task__max_length": 64}, "task.max_length is 64; it must be at most 32"),
        ({"method__target_modules": ["nowhere"]}, "nowhere"),
        ({"training__eval_strategy": "sometimes"}, "training: "),
        ({"plan": {"schedule": {"kind": "cubic", "warmup": 10, "cooldown": 10}}}, "schedule.warmup 10"),
        ({"model": "no/such-model"}, "cannot load model 'no/such-model'"),
        ({"task__data": "/no/such"}, "no such data folder"),
    ],
)
def test_what_cannot_run_writes_nothing(root: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TapertuneError) as caught:
        go(root, **changes)
    assert message in str(caught.value)
    assert not (root / "run").exists()


def test_a_folder_that_cannot_be_made(root: Path) -> None:
    (root / "file").write_text("mine")
    for folder in (root / "file", root / "file" / "run" / "deeper"):
        with pytest.raises(TapertuneError, match=r"output_dir is .* and '.*file' is a file"):
            go(root, output_dir=str(folder))
    assert (root / "file").read_text() == "mine"


def test_a_failed_run_says_so(root: Path) -> None:
    class Fail(Display):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        run(check_settings(raw_settings(root)), display=Fail())
    record = read_record(root / "run")
    assert (record.status, record.error) == ("failed", "OSError: the disk is full")


def test_a_diverged_run_fails(root: Path) -> None:
    with pytest.raises(ArithmeticError, match="diverged"):
        go(root, "full", training__learning_rate=50.0, training__weight_decay=1e18, head__weight_decay=1e18)
    assert read_record(root / "run").status == "failed"


def test_regression_over_pairs_and_the_best_epoch(root: Path) -> None:
    rows = [{"a": f"good {'tea ' * (n % 4)}", "b": "rain", "y": float(n % 4)} for n in range(24)]
    (root / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "name": "regression",
        "train": str(root / "own.jsonl"),
        "validation": str(root / "own.jsonl"),
        "max_length": 16,
    }
    columns = {"text": "a", "text_pair": "b", "label": "y", "scale": 3.0}
    training = {"save_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "eval_pearson"}
    raw = raw_settings(root, task={**task, **columns})
    raw["training"] = {key: value for key, value in raw["training"].items() if key != "save_steps"} | training
    record = run(check_settings(raw))
    assert list(record["metrics"]) == ["pearson", "spearman", "loss"]
    low, high = record["score"]["interval"]
    assert -1 <= low <= record["score"]["value"] <= high <= 1


def _heed_ctrl_c() -> None:
    """Tests that run in the background of a shell start with it ignored, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_in_good_order(root: Path) -> None:
    raw = raw_settings(root, training__num_train_epochs=4000, training__save_steps=2, training__eval_strategy="no")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tapertune.bench"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
        preexec_fn=_heed_ctrl_c,
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(raw))
            process.stdin.close()
            deadline = time.monotonic() + 600
            while not whole_checkpoints(root / "run") and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            assert process.wait(300) == 130
        finally:
            process.kill()
    assert read_record(root / "run").status == "interrupted"
    found = checkpoints(root / "run")
    assert found and found == whole_checkpoints(root / "run")
    assert {"adapter_model.safetensors", "optimizer.pt", "trainer_state.json"} <= {p.name for p in found[-1].iterdir()}
