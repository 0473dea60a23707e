"""The heads of cards are what huggingface_hub's own classes read and write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tapertune.methods import METHODS
from tapertune.runfile.record import Git, Hardware, Parameters, Record, Score
from tapertune.runfile.settings import BASELINES
from tapertune.tasks import Task, get_task, text_classification
from tapertune.train.model_card import model_card

CLASSES = replace(text_classification(), labels=("a", "b"))


def record(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        "status": "done", "name": "aflora-rte", "method": "aflora", "model": "bert-base-uncased", "task": "rte",
        "seed": 1, "settings": {"training": {"hub_token": "<hidden>"}}, "versions": {"tapertune": "0"},
        "hardware": Hardware(cpu="c", cores=1, threads=1, memory_gb=1.0, gpu=None), "git": Git(commit=None, dirty=None),
        "score": Score(metric="accuracy", value=0.75, count=8, interval=(0.4, 0.9)),
        "metrics": {"accuracy": 0.75, "loss": 1.0},
        "parameters": Parameters(start=2, average=2.0, end=2, head=1, base=9),
    }  # fmt: skip
    return Record(**{**fields, **changes})


def head(card: str) -> Any:
    from huggingface_hub import ModelCard

    read = ModelCard(card)  # raises where the metadata are not valid
    data = read.data.to_dict()
    assert data == yaml.safe_load(card.split("---")[1])
    return data


@pytest.mark.parametrize("method", [*METHODS, *BASELINES])
def test_scores_on_a_data_set_of_the_hub_are_a_model_index(method: str) -> None:
    data = head(model_card(record(method=method), get_task("rte"), "bert-base-uncased"))
    adapter = method not in BASELINES
    assert data["library_name"] == ("peft" if adapter else "transformers")
    assert data["base_model"] == "bert-base-uncased"
    assert data["base_model_relation"] == ("adapter" if adapter else "finetune")
    assert data["datasets"] == ["nyu-mll/glue"] and data["pipeline_tag"] == "text-classification"
    assert {"tapertune", method} <= set(data["tags"])
    [index] = data["model-index"]
    [result] = index["results"]
    assert (result["dataset"]["type"], result["dataset"]["config"]) == ("nyu-mll/glue", "rte")
    assert result["metrics"] == [{"type": "accuracy", "value": 0.75, "name": "accuracy"}]


@pytest.mark.parametrize(("model", "name"), [("minilm", "sentence-transformers/all-MiniLM-L6-v2"), ("FOLDER", None)])
def test_what_the_hub_does_not_know_is_left_out(model: str, name: str | None, tmp_path: Path) -> None:
    model = str(tmp_path) if model == "FOLDER" else model
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    data = head(model_card(record(model=model), CLASSES, str(tmp_path)))
    assert data.get("base_model") == name
    assert "datasets" not in data and "model-index" not in data
    assert data["metrics"] == ["accuracy"]
    assert data.get("license") == (None if name else "mit")


def test_every_task_has_a_valid_head() -> None:
    from tapertune.tasks import OWN, TASKS

    tasks: list[Task] = [*TASKS.values(), *(make() for make in OWN.values())]
    for task in tasks:
        metrics = dict.fromkeys(task.metrics, 0.5)
        score = Score(metric=task.main_metric, value=0.5, count=8, interval=(0.4, 0.9))
        task = replace(task, labels=task.labels or ("a", "b"))
        data = head(model_card(record(task=task.name, metrics=metrics, score=score), task, "bert-base-uncased"))
        assert ("model-index" in data) == (task.hub is not None)


def test_a_part_of_a_split_is_no_model_index() -> None:
    for block in ({"data": "sample"}, {"validation_rows": 5}, {"validation": 0.1}):
        data = head(model_card(record(settings={"task": block}), get_task("rte"), "bert-base-uncased"))
        assert "model-index" not in data and data["datasets"] == ["nyu-mll/glue"]
