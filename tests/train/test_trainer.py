from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from train.tiny_run import raw_settings

from tapertune.integrations.loop import bare_optimizer
from tapertune.runfile.settings import check_settings
from tapertune.train.progress import LineDisplay
from tapertune.train.runner import run
from tapertune.train.trainer import Checkpointing, Clock, Costs, load_costs, total_steps


def test_the_head_has_its_own_rate_and_decay(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[dict[str, Any]] = []

    def note(self: Clock, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        groups[:] = kwargs["optimizer"].param_groups

    monkeypatch.setattr(Clock, "on_train_end", note)
    raw = raw_settings(
        root, "lora", training__weight_decay=0.3, training__lr_scheduler_type="constant", training__max_steps=2
    )
    run(check_settings(raw | {"training": {**raw["training"], "warmup_steps": 0}}))
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in groups] == [
        (0.01, 0.3, 24),  # A and B of twelve layers
        (0.02, 0.1, 2),  # weights of pooler and classifier
        (0.02, 0.0, 2),  # their biases
    ]


@pytest.mark.parametrize(("chosen", "fused"), [(None, True), ("adamw_torch", False)])
def test_the_optimizer_is_fused_unless_another_is_chosen(
    root: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None, fused: bool
) -> None:
    seen: list[torch.optim.Optimizer] = []
    monkeypatch.setattr(Clock, "on_train_end", lambda *_, **kwargs: seen.append(bare_optimizer(kwargs["optimizer"])))
    extra = {} if chosen is None else {"training__optim": chosen}
    run(check_settings(raw_settings(root, "lora", training__max_steps=1, **extra)))
    assert type(seen[0]) is torch.optim.AdamW and bool(seen[0].defaults["fused"]) is fused


def test_an_interrupt_waits_for_the_checkpoint(tmp_path: Path) -> None:
    checkpointing = Checkpointing(Costs(train_seconds=2.5))
    before = signal.getsignal(signal.SIGINT)
    (tmp_path / "checkpoint-3").mkdir()
    checkpointing.hold()
    os.kill(os.getpid(), signal.SIGINT)
    state: Any = SimpleNamespace(global_step=3)
    args: Any = SimpleNamespace(output_dir=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        checkpointing.on_save(args, state, None)  # type: ignore[arg-type]
    assert signal.getsignal(signal.SIGINT) is before
    assert load_costs(tmp_path / "checkpoint-3").train_seconds == 2.5
    checkpointing.release()


def test_costs_begin_at_nothing() -> None:
    assert load_costs(None) == Costs()


@pytest.mark.parametrize(
    ("rows", "accumulate", "epochs", "steps", "expected"),
    [(40, 1, 3, -1, 15), (41, 1, 1, -1, 6), (41, 4, 2, -1, 4), (40, 1, 0.5, -1, 3), (40, 1, 3, 7, 7)],
)
def test_steps_are_counted_as_trainer_counts(
    shared_root: Path, rows: int, accumulate: int, epochs: float, steps: int, expected: int
) -> None:
    from transformers import TrainingArguments

    args = TrainingArguments(
        per_device_train_batch_size=8, gradient_accumulation_steps=accumulate, num_train_epochs=epochs, max_steps=steps
    )
    assert total_steps(args, rows) == expected


def test_plain_lines_say_how_a_run_goes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = raw_settings(root, training__logging_steps=5)
    run(check_settings(raw), display=LineDisplay("x"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        "step 5/15",
        "epoch 1",
        "step 10/15",
        "epoch 2",
        "step 15/15",
        "epoch 3",
    ]
    assert "loss 0." in lines[0] and "trainable " in lines[0] and "frozen 8/8" in lines[-2]
