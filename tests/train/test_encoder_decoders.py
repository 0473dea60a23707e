"""Runs of encoder-decoders, which need more of tokens and inputs than others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tasks.tiny_text import bart, t5, tokenizer
from train.tiny_run import raw_settings

from tapertune.cli.main import main
from tapertune.runfile.settings import check_settings
from tapertune.train.runner import run

MODELS = {"bart": bart, "t5": t5}


def settings(root: Path, name: str, made: Any, **changes: Any) -> dict[str, Any]:
    model = MODELS[name]()
    model.save_pretrained(root / name)
    made.save_pretrained(root / name)
    raw = raw_settings(root, "lora", model=str(root / name), training__max_steps=2, **changes)
    return {**raw, "method": {"name": "lora", "r": 2, "target_modules": "all-linear"}}


@pytest.mark.parametrize("name", MODELS)
def test_a_classifier_trains_to_the_end(root: Path, name: str) -> None:
    record = run(check_settings(settings(root, name, tokenizer(before="", behind=" </s>"))))
    assert record["status"] == "done" and record["flops"]["per_token"]["base_forward"] > 0


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_writes_trains_to_the_end(root: Path, name: str) -> None:
    for split in ("train", "validation"):
        rows = "".join(f'{{"prompt": "add {n} and two", "completion": "{n}"}}\n' for n in range(8))
        (root / f"{split}.jsonl").write_text(rows)
    task = {"name": "prompt_completion", "kind": "seq2seq", "data": str(root), "max_length": 16,
            "max_answer_length": 8, "generation": {"max_new_tokens": 4}}  # fmt: skip
    record = run(check_settings(settings(root, name, tokenizer(behind=" </s>"), task=task)))
    assert record["status"] == "done" and record["flops"]["per_token"]["base_forward"] > 0


@pytest.mark.parametrize("name", MODELS)
def test_a_tokenizer_without_an_end_token_stops_before_anything_is_written(
    root: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tokenizer(before="", behind=" </s>")
    made.eos_token = None
    path = root / "run.yaml"
    path.write_text(yaml.safe_dump(settings(root, name, made)))
    capsys.readouterr()
    assert main(["train", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the model's tokenizer: eos_token is None; it must be ") and error.count("\n") == 1
    assert not (root / "run").exists()
