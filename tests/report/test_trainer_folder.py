"""The folder of a plain Trainer run, with our callback, has a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import Rows, tiny_bert

import tapertune
from tapertune.errors import TapertuneError
from tapertune.report import load_run, render_html, render_markdown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import get_peft_model
    from transformers import Trainer, TrainingArguments

    out = tmp_path_factory.mktemp("trainer")
    config: Any = tapertune.make_config(
        "adalora", init_r=4, target_r=2, tinit=1, tfinal=2, deltaT=1, task_type="SEQ_CLS"
    )
    model = get_peft_model(tiny_bert(), config)  # type: ignore[arg-type]
    arguments = TrainingArguments(
        str(out), max_steps=8, per_device_train_batch_size=8, learning_rate=1e-2, report_to="none", save_steps=4,
        eval_strategy="steps", eval_steps=4, logging_steps=2, use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    rows = Rows(16)
    trainer = Trainer(
        model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[tapertune.TapertuneCallback()]
    )
    trainer.train()
    return out


def test_it_is_drawn_as_a_run_is(folder: Path) -> None:
    data = load_run(folder)
    assert (data.method, data.status, data.complete, data.task) == ("adalora", "done", True, "SEQ_CLS")
    assert data.record["steps"] == 8 and data.number("adapter_bytes")
    assert data.ranks is not None and data.ranks.end < data.ranks.start
    assert data.score is not None and data.score.metric == "loss" and data.score.interval is None
    page = render_html([data])
    assert "Ranks at the end" in page and "Training loss" in page
    assert render_markdown([data]).startswith(f"# {folder.name}")


def test_a_folder_without_events_is_none(tmp_path: Path) -> None:
    with pytest.raises(TapertuneError, match=r"run\.json.*Is this the folder of a run\?"):
        load_run(tmp_path)
