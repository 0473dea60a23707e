"""A resumed run logs, evaluates and ends as one that was not stopped, wherever its checkpoint lies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import Rows, tiny_bert
from transformers import Trainer, TrainerCallback, TrainingArguments

import tapertune
from tapertune.events import read_events
from tapertune.integrations import whole_checkpoint


class Stop(TrainerCallback):
    """Ends training as a crash would."""

    def __init__(self, step: int, event: str) -> None:
        self.step = step
        setattr(self, event, self._stop)

    def _stop(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise RuntimeError("stopped")


def trainer(folder: Path, method: str = "lora", **changes: Any) -> Trainer:
    base = tiny_bert()
    torch.manual_seed(1)
    model = get_peft_model(base, tapertune.make_config(method, modules_to_save=["classifier"]))
    rows = Rows()
    chosen: dict[str, Any] = {
        "per_device_train_batch_size": len(rows) // 4, "max_steps": 8, "learning_rate": 1e-2, "logging_steps": 3,
        "save_strategy": "steps", "save_steps": 2, "eval_strategy": "epoch", "report_to": "none", "use_cpu": True,
        "disable_tqdm": True, "seed": 3, **changes,
    }  # fmt: skip
    arguments = TrainingArguments(str(folder), **chosen)
    return Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[tapertune.TapertuneCallback()])


def same(one: Trainer, other: Trainer) -> None:
    for (name, value), (_, same) in zip(one.model.named_parameters(), other.model.named_parameters(), strict=True):
        assert torch.equal(value, same), name
    first, second = (Path(str(each.args.output_dir)) / "events.jsonl" for each in (one, other))
    assert first.read_bytes() == second.read_bytes()
    changing = ("runtime", "_per_second", "total_flos")
    logs = [
        [{k: v for k, v in entry.items() if not k.endswith(changing)} for entry in each.state.log_history]
        for each in (one, other)
    ]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("stop", "event", "changes"),
    [
        (5, "on_step_end", {}),  # a checkpoint between two logs
        (4, "on_epoch_end", {}),  # after the checkpoint of an epoch's last step, before its evaluation
        (4, "on_evaluate", {"logging_strategy": "epoch"}),
        (8, "on_evaluate", {}),  # after the run's last checkpoint
        (6, "on_evaluate", {"max_steps": 6}),  # which is inside of an epoch
        (6, "on_train_end", {"max_steps": 6, "eval_strategy": "no"}),
        (5, "on_step_end", {"gradient_accumulation_steps": 2, "max_steps": 8, "save_steps": 1}),
        (5, "on_step_end", {"logging_nan_inf_filter": False, "max_grad_norm": 0.0}),
    ],
)
def test_the_log_is_the_same(tmp_path: Path, stop: int, event: str, changes: dict[str, Any]) -> None:
    whole, cut = trainer(tmp_path / "whole", **changes), trainer(tmp_path / "cut", **changes)
    whole.train()
    cut.add_callback(Stop(stop, event))
    with pytest.raises(RuntimeError, match="stopped"):
        cut.train()
    again = trainer(tmp_path / "cut", **changes)
    again.train(resume_from_checkpoint=whole_checkpoint(tmp_path / "cut"))
    assert again.state.global_step == whole.state.global_step
    same(whole, again)
    assert read_events(tmp_path / "cut" / "events.jsonl")[-1]["type"] == "end"


def test_the_same_trainer_trains_again_after_an_end(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=6)
    run.train()
    run.train(resume_from_checkpoint=whole_checkpoint(tmp_path))
    assert run.state.global_step == 6
    assert not {"_run_epoch", "_load_rng_state"} & vars(run).keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_device_train_batch_size": 2}, "per_device_train_batch_size"),
        ({"learning_rate": 0.5}, r"had learning_rate 0\.01, this one has 0\.5; they must be equal"),
        ({"seed": 4}, "had seed 3, this one has 4"),
        ({"lr_scheduler_type": "constant"}, "lr_scheduler_type"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps 1, this one has 2"),
        ({"max_steps": 12}, "total_steps 8, this one has 12"),
    ],
)
def test_another_run_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    cut = trainer(tmp_path)
    cut.add_callback(Stop(3, "on_step_end"))
    with pytest.raises(RuntimeError, match="stopped"):
        cut.train()
    with pytest.raises(tapertune.TapertuneError, match=message):
        trainer(tmp_path, **changes).train(resume_from_checkpoint=True)


def test_other_data_and_another_base_are_named(tmp_path: Path) -> None:
    cut = trainer(tmp_path)
    cut.add_callback(Stop(3, "on_step_end"))
    with pytest.raises(RuntimeError, match="stopped"):
        cut.train()
    other = trainer(tmp_path)
    with torch.no_grad():
        next(p for p in other.model.parameters() if not p.requires_grad).add_(1)
    with pytest.raises(tapertune.TapertuneError, match="the base model's weights are others than when the run began"):
        other.train(resume_from_checkpoint=True)
    other = trainer(tmp_path)
    other.train_dataset = [*other.train_dataset, other.train_dataset[0]]  # type: ignore[assignment,misc,index]
    with pytest.raises(tapertune.TapertuneError, match="rows of training"):
        other.train(resume_from_checkpoint=True)


def test_batches_split_otherwise_go_on_with_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut = trainer(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=1)
    cut.add_callback(Stop(3, "on_step_end"))
    with pytest.raises(RuntimeError, match="stopped"):
        cut.train()
    again = trainer(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    again.train(resume_from_checkpoint=True)
    assert "batches are the same" in caplog.text and again.state.global_step == 8


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_what_trainer_would_do_without_is_missed(tmp_path: Path, name: str) -> None:
    cut = trainer(tmp_path)
    cut.add_callback(Stop(5, "on_step_end"))
    with pytest.raises(RuntimeError, match="stopped"):
        cut.train()
    os.unlink(tmp_path / "checkpoint-4" / name)
    with pytest.raises(tapertune.TapertuneError, match=f"checkpoint-4': {name} is missing; .*whole_checkpoint"):
        trainer(tmp_path).train(resume_from_checkpoint=True)
    assert whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def stopped(folder: Path, rows: Any) -> None:
    cut = trainer(folder)
    cut.train_dataset = rows
    cut.add_callback(Stop(3, "on_step_end"))
    with pytest.raises(RuntimeError, match="stopped"):
        cut.train()


def listed(rows: Any) -> list[dict[str, torch.Tensor]]:
    return [dict(rows[number]) for number in range(len(rows))]


def table(rows: Any) -> Any:
    import datasets

    return datasets.Dataset.from_list([{key: value.tolist() for key, value in row.items()} for row in rows])


class Drawing(torch.utils.data.Dataset):
    """Rows that are other ones at each look."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return Rows(64)[int(torch.randint(64, ()))]


@pytest.mark.parametrize("form", [listed, table])
def test_one_changed_row_is_named(tmp_path: Path, form: Any) -> None:
    rows = listed(Rows())
    stopped(tmp_path, form(rows))
    rows[17]["input_ids"] = rows[17]["input_ids"] + 1
    other = trainer(tmp_path)
    other.train_dataset = form(rows)
    with pytest.raises(tapertune.TapertuneError, match="the training rows are others than when the run began"):
        other.train(resume_from_checkpoint=True)


def test_another_order_of_a_data_set_of_ones_own_is_named(tmp_path: Path) -> None:
    stopped(tmp_path, Rows())
    other = trainer(tmp_path)
    assert other.train_dataset is not None
    other.train_dataset.rows.reverse()  # type: ignore[union-attr]
    with pytest.raises(tapertune.TapertuneError, match="the training rows are others"):
        other.train(resume_from_checkpoint=True)


def test_rows_that_change_from_look_to_look_are_no_other_run(tmp_path: Path) -> None:
    stopped(tmp_path, Drawing())
    again = trainer(tmp_path)
    again.train_dataset = Drawing()
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 8


def test_looking_at_rows_draws_nothing() -> None:
    from tapertune.integrations.digests import data_digest

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert data_digest(Drawing()) is None and data_digest(Rows()) is not None
    assert torch.equal(torch.rand(1), expected)


def test_another_dropout_of_the_base_model_is_named(tmp_path: Path) -> None:
    stopped(tmp_path, Rows())
    other = trainer(tmp_path)
    other.model.config.hidden_dropout_prob = 0.3
    with pytest.raises(tapertune.TapertuneError, match=r"had config.hidden_dropout_prob 0\.0, this one has 0\.3"):
        other.train(resume_from_checkpoint=True)
