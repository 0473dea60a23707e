"""``evaluate`` and ``predict`` on what training, merging and PEFT itself have written."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from train.tiny_run import raw_settings, write_data, write_model

from tapertune.runfile.record import read_record
from tapertune.runfile.settings import check_settings
from tapertune.train.runner import run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluate")
    write_model(root / "model")
    write_data(root / "data")
    (root / "mnli.json").write_text('[{"premise": "a", "hypothesis": "b", "label": 2}]')
    answers = {"text": ["tea"], "answer_start": [0]}
    (root / "squad.json").write_text(json.dumps([{"question": "good", "context": "tea", "answers": answers}]))
    return root


@pytest.fixture(scope="module", params=["aflora", "lora", "full", "head"])
def trained(request: pytest.FixtureRequest, root: Path) -> Path:
    folder = root / f"run-{request.param}"
    run(check_settings(raw_settings(root, request.param, output_dir=str(folder))))
    return folder


@pytest.fixture(scope="module")
def adapter(root: Path) -> Path:
    folder = root / "run-adapter"
    run(check_settings(raw_settings(root, "aflora", output_dir=str(folder))))
    return folder


def evaluated(cli: Any, folder: Path, *arguments: object, out: Path) -> dict[str, Any]:
    done = cli("evaluate", folder, "--out", out, *arguments)
    assert done.code == 0, done.err
    return json.loads(out.read_text())


def test_a_saved_model_scores_as_at_the_end_of_its_training(cli: Any, trained: Path, tmp_path: Path) -> None:
    record = read_record(trained)
    found = evaluated(cli, trained, out=tmp_path / "found.json")["splits"]["validation"]
    assert record.metrics is not None and record.score is not None
    assert found["metrics"] == pytest.approx(record.metrics, abs=1e-6)
    assert found["score"]["interval"] == pytest.approx(list(record.score.interval))


def test_the_task_may_be_named_with_its_data(cli: Any, root: Path, adapter: Path, tmp_path: Path) -> None:
    done = cli("evaluate", adapter, "--task", "sst2", "--data", root / "data", "--batch-size", 3)
    assert done.code == 0, done.err
    assert "sst2 validation: 40 rows" in done.out and "95% interval" in done.out
    less = evaluated(cli, adapter, "--task.validation-rows", 7, out=tmp_path / "less.json")
    assert less["splits"]["validation"]["score"]["count"] == 7


def test_a_merged_folder_scores_as_its_adapter(cli: Any, root: Path, tmp_path: Path) -> None:
    run(check_settings(raw_settings(root, "lora", output_dir=str(root / "to-merge"))))
    assert cli("merge", root / "model", root / "to-merge", tmp_path / "merged").code == 0
    arguments = ("--task", "sst2", "--data", root / "data", "--task.max-length", 16)
    ours = evaluated(cli, tmp_path / "merged", *arguments, out=tmp_path / "a.json")
    theirs = evaluated(cli, root / "to-merge", out=tmp_path / "b.json")
    for name, value in theirs["splits"]["validation"]["metrics"].items():
        assert ours["splits"]["validation"]["metrics"][name] == pytest.approx(value, abs=1e-5)


def test_peft_lora_is_evaluated_too(cli: Any, root: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    def save(folder: Path, heads: list[str]) -> None:
        base = AutoModelForSequenceClassification.from_pretrained(root / "model", num_labels=2)
        config = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], modules_to_save=heads)
        get_peft_model(base, config).save_pretrained(folder)

    save(tmp_path / "peft", ["classifier", "pooler"])
    arguments = ("--task", "sst2", "--data", root / "data", "--task.max-length", 16)
    found = evaluated(cli, tmp_path / "peft", *arguments, out=tmp_path / "a.json")
    assert 0 <= found["splits"]["validation"]["metrics"]["accuracy"] <= 1
    # without the pooler there are weights that nobody has trained
    save(tmp_path / "short", ["classifier"])
    done = cli("evaluate", tmp_path / "short", *arguments)
    assert done.code == 2
    assert "holds no trained weights for 'bert.pooler.dense" in done.err.splitlines()[-1]  # behind transformers' bar


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_predictions_come_beside_the_rows(cli: Any, root: Path, adapter: Path, tmp_path: Path, ending: str) -> None:
    rows = [{"id": n, "sentence": f"{'good' if n % 2 else 'bad'} tea {'very ' * (n % 5)}"} for n in range(11)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / f"out.{ending}"
    done = cli("predict", adapter, tmp_path / "in.jsonl", "--out", out, "--batch-size", 4)
    assert done.code == 0, done.err
    assert "11 rows written to" in done.out
    if ending == "csv":
        with out.open(newline="") as file:
            found: list[Any] = list(csv.DictReader(file))
    else:
        found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [int(row["id"]) for row in found] == list(range(11))
    assert list(found[0]) == ["id", "sentence", "prediction", "probability"]
    assert {row["prediction"] for row in found} <= {"negative", "positive"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.jsonl", out.name])


def test_found_classes_are_remembered(cli: Any, root: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{word} tea", "label": name} for word, name in [("good", "yes"), ("bad", "no")] * 12]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = str(tmp_path / "own.jsonl")
    task = {"name": "text_classification", "train": own, "validation": own, "max_length": 16}
    run(check_settings(raw_settings(root, "lora", task=task, output_dir=str(tmp_path / "run"))))
    done = cli("predict", tmp_path / "run", own, "--out", tmp_path / "out.jsonl")
    assert done.code == 0, done.err
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert {json.loads(line)["prediction"] for line in lines} <= {"no", "yes"}


def test_rows_that_cannot_be_used_stop_it_or_are_named(cli: Any, adapter: Path, tmp_path: Path) -> None:
    rows = [{"sentence": "good"}, {"sentence": None}, {"sentence": "bad"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("predict", adapter, tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl")
    done = cli(*arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "line 2: field 'sentence' is None; it must be text. 1 of 3 rows cannot be used (line 2)" in done.err
    assert not (tmp_path / "out.jsonl").exists()
    done = cli(*arguments, "--skip-bad-rows")
    assert done.code == 0
    assert "1 of 3 rows cannot be used (line 2) and were left out" in done.err
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "none"], "no such folder: 'none'"),
        (["evaluate", "data"], "holds neither an adapter (adapter_config.json) nor a model (config.json)"),
        (["evaluate", "model"], "does not say what task it was trained on: name it with --task"),
        (["evaluate", "model", "--task", "sst3"], "unknown task 'sst3': did you mean 'sst2'?"),
        (["evaluate", "run-adapter", "--task.lable", "x"], "task.lable"),
        (["evaluate", "run-adapter", "--tusk", "x"], "unknown option '--tusk'"),
        (["evaluate", "run-adapter", "stray"], "unexpected argument 'stray'"),
        (["evaluate", "run-adapter", "--data", "nowhere"], "no such data folder: 'nowhere'"),
        (["predict", "run-adapter", "data/train.jsonl", "--out", "x.txt"], "must end in .jsonl or .csv"),
        (["predict", "run-adapter", "data/train.jsonl", "--out", "no/x.csv"], "there is no folder 'no'"),
        (
            ["evaluate", "run-adapter", "--task", "squad", "--task.validation", "squad.json", "--task.max_length", 16],
            "was trained for SEQ_CLS; task 'squad' is QUESTION_ANS",
        ),
        (
            ["evaluate", "run-adapter", "--task", "mnli", "--task.validation", "mnli.json", "--task.max_length", 16],
            "was trained on 2 classes (negative, positive); task 'mnli' has 3",
        ),
        (["evaluate", "run-adapter", "--out", "no/x.json"], "there is no folder 'no'"),
        (["evaluate", "run-adapter", "--out", "data"], "--out is 'data', which cannot be written to"),
        (
            ["predict", "run-adapter", "data/train.jsonl", "--out", "data/train.jsonl"],
            "the file with the rows: name",
        ),
        (["predict", "run-adapter", "data/none.jsonl", "--out", "x.csv"], "no such file: 'data/none.jsonl'"),
    ],
)
def test_wrong_usage_is_one_line_and_two(
    cli: Any, root: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(root)
    done = cli(*arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err


def test_metrics_replace_no_file_unasked(cli: Any, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    out.write_text("mine")
    done = cli("evaluate", adapter, "--out", out)
    assert done.code == 2 and "is there already: --overwrite replaces it" in done.err and done.err.count("\n") == 1
    assert out.read_text() == "mine"
    assert set(evaluated(cli, adapter, "--overwrite", out=out)["splits"]) == {"validation"}
