"""Runs whose answers are generated, from a run's settings to its folder and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tasks.tiny_text import bart, llama
from train.tiny_written import settings, write

from tapertune.errors import TapertuneError
from tapertune.host import merged_weight
from tapertune.tasks.counts import Counts
from tapertune.train.evaluation import evaluate, predict
from tapertune.train.runner import run


@pytest.mark.parametrize(
    ("method", "task"),
    [
        ("lora", {"name": "prompt_completion"}),
        ("aflora", {"name": "chat"}),
        ("full", {"name": "prompt_completion", "format": "alpaca", "generation": {"num_beams": 2}}),
    ],
)
def test_a_decoder(tmp_path: Path, method: str, task: dict[str, Any]) -> None:
    write(tmp_path, llama(), chat=task["name"] == "chat")
    length = 80 if task.get("format") == "alpaca" else 24
    record = run(settings(tmp_path, method, {**task, "max_length": length}))
    assert record["status"] == "done"
    assert list(record["metrics"]) == ["exact_match", "rougeL", "loss"]
    assert record["score"]["count"] == 24
    assert record["parameters"]["head"] == 0
    losses = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    seen = [event["loss"] for event in losses if event["type"] == "loss"]
    assert seen[-1] < seen[0]


def test_a_dense_update_is_made_once_for_all_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = merged_weight.merged_weight
    monkeypatch.setattr(merged_weight, "merged_weight", lambda *args: calls.append(1) or real(*args))
    write(tmp_path, llama())
    record = run(settings(tmp_path, "loran", {"name": "prompt_completion"}))
    calls.clear()
    _, found, _ = evaluate(tmp_path / "run", start=lambda rows: lambda done: None)
    assert found["validation"].metrics == pytest.approx(record["metrics"])
    assert len(calls) == 4, "one for each adapted layer, in 24 rows"
    assert predict(tmp_path / "run", tmp_path / "train.jsonl", tmp_path / "out.jsonl", start=lambda n: lambda d: None)
    assert len(calls) == 8


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_encoder_decoder(tmp_path: Path, method: str) -> None:
    write(tmp_path, bart())
    task = {"name": "prompt_completion", "kind": "seq2seq", "metrics": ["rouge1"], "max_answer_length": 8}
    record = run(settings(tmp_path, method, task))
    assert record["status"] == "done" and list(record["metrics"]) == ["rouge1", "loss"]


def test_a_saved_adapter_answers_as_the_run_did(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tapertune.tasks.kinds import Forward, get_kind

    write(tmp_path, llama())
    made = settings(tmp_path, "lora", {"name": "prompt_completion"})
    record = run(made)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), str(tmp_path / "run"))
    reader = AutoTokenizer.from_pretrained(tmp_path / "model")
    task = made.task.declaration()
    kind = get_kind(task.kind)
    rows = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    examples = [kind.check(task, row) for row in rows]
    encoded = kind.encode(task, examples, reader, task.max_length, train=False)
    predicted = kind.predict(task, Forward(model=model, tokenizer=reader, batch_size=64), encoded)
    scores = kind.score(task, predicted, examples)
    assert {**scores.metrics, "loss": predicted.loss} == pytest.approx(record["metrics"], abs=1e-6)


LONG = {"prompt": "the sum of one and two is", "completion": "three " * 30}


def add(root: Path, split: str, rows: list[dict[str, Any]]) -> Path:
    path = root / f"{split}.jsonl"
    path.write_text(path.read_text() + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("stream", [False, True])
def test_answers_that_do_not_fit_are_counted_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stream: bool
) -> None:
    write(tmp_path, llama())
    train, validation = add(tmp_path, "train", [LONG] * 3), add(tmp_path, "validation", [LONG] * 2)
    record = run(settings(tmp_path, "lora", {"name": "prompt_completion", "stream": stream}))
    fit = "prompt and answer together do not fit into task.max_length (24 tokens)"
    told = capsys.readouterr().err.splitlines()
    assert f"note: {validation}: 2 of 26 rows count for the score but not for the loss: {fit}" in told
    counts = record["rows"]["train"]
    if stream:
        assert counts["rows"] >= 12 * 8 and counts["left_out"] == 3 * (counts["rows"] // 27)
    else:
        assert f"note: {train}: 3 of 27 rows were left out of training: {fit}" in told
        assert counts == asdict(Counts(rows=27, left_out=3))
        assert json.loads((tmp_path / "run" / "all_results.json").read_text())["train_samples"] == 24
    assert record["rows"]["validation"]["left_out"] == 2 and record["score"]["count"] == 26


def test_answers_are_cut_only_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, bart())
    train = add(tmp_path, "train", [LONG])
    task = {"name": "prompt_completion", "kind": "seq2seq", "max_answer_length": 8, "cut_answers": True}
    record = run(settings(tmp_path, "lora", task))
    assert record["rows"]["train"] == asdict(Counts(rows=25, answers_cut=1))
    longer = "they are longer than task.max_answer_length (8 tokens)"
    assert f"note: {train}: 1 of 25 answers were cut: {longer}" in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "task", "reason"),
    [
        (llama, {"max_length": 6}, r"prompt and answer together do not fit into task.max_length \(6 tokens\)"),
        (bart, {"kind": "seq2seq", "max_answer_length": 2}, r"longer than task.max_answer_length \(2 tokens\); task"),
    ],
)
def test_where_no_answer_fits_nothing_is_written(
    tmp_path: Path, model: Any, task: dict[str, Any], reason: str, stream: bool
) -> None:
    write(tmp_path, model())
    with pytest.raises(TapertuneError, match=f"train.jsonl: none of 24 rows can be trained on: .*{reason}"):
        run(settings(tmp_path, "lora", {"name": "prompt_completion", "stream": stream, **task}))
    assert not (tmp_path / "run").exists()


def test_rows_answered_by_a_letter_are_trained_on(tmp_path: Path) -> None:
    write(tmp_path, llama())
    letter = {"instruction": "one and two", "input": "", "output": "the sum is 3. (C)", "answer": "C"}
    number = {"instruction": "three and four", "input": "", "output": "the sum is 7.", "answer": "7.0"}
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.json").write_text(json.dumps([letter, number] * 6))
    (tmp_path / "test_addsub.json").write_text(json.dumps([number] * 6))
    made = settings(tmp_path, "lora", {"name": "math_instruct", "format": "plain"})
    made.task.train = made.task.validation = None
    made.task.data = str(tmp_path)
    record = run(made)
    assert record["rows"] == {"train": asdict(Counts(rows=12)), "test_addsub": asdict(Counts(rows=6))}


def test_an_evaluation_without_a_loss(tmp_path: Path) -> None:
    write(tmp_path, llama())
    (tmp_path / "validation.jsonl").write_text(json.dumps(LONG) + "\n", encoding="utf-8")
    record = run(settings(tmp_path, "lora", {"name": "prompt_completion"}))
    assert list(record["metrics"]) == ["exact_match", "rougeL"]


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    write(tmp_path, llama())
    made = settings(tmp_path, "aflora", {"name": "prompt_completion"})
    first = run(made)
    assert run(made, overwrite=True)["metrics"] == first["metrics"]


@pytest.mark.parametrize(
    ("model", "task", "message"),
    [
        (bart, {"name": "prompt_completion"}, "bart is an encoder-decoder: set task.kind to seq2seq"),
        (llama, {"name": "prompt_completion", "kind": "seq2seq"}, r"set task.kind to causal_lm|no seq2seq model of"),
        (llama, {"name": "prompt_completion", "max_length": 126}, "make 130 tokens; this model reads 128"),
        (llama, {"name": "prompt_completion", "prompt": "promt"}, "no column 'promt': did you mean 'prompt'"),
    ],
)
def test_what_does_not_fit_stops_before_anything_is_written(
    tmp_path: Path, model: Any, task: dict[str, Any], message: str
) -> None:
    write(tmp_path, model())
    with pytest.raises(TapertuneError, match=message):
        run(settings(tmp_path, "lora", task))
    assert not (tmp_path / "run").exists()
