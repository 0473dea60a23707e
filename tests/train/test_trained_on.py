"""A run goes on with the rows, the tokenizer and the base model that it began with, or says which are others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from train.tiny_run import raw_settings, write_data, write_model

from tapertune.errors import TapertuneError
from tapertune.runfile.record import FILE
from tapertune.runfile.settings import check_settings
from tapertune.train.progress import Display
from tapertune.train.runner import run


class Interrupt(Display):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt


def settings(root: Path, method: str, **changes: Any) -> Any:
    raw = raw_settings(
        root, method, training__max_steps=3, training__save_steps=1, training__eval_strategy="no", **changes
    )
    raw.pop("plan", None)
    return check_settings(raw)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a model, data and an interrupted run."""
    folders: dict[str, Path] = {}
    for method in ("lora", "head"):
        root = folders[method] = tmp_path_factory.mktemp(method)
        write_model(root / "model", width=8, layers=1)
        write_data(root / "data", rows=16)
        with pytest.raises(KeyboardInterrupt):
            run(settings(root, method), display=Interrupt())
    return folders


@pytest.fixture
def copied(stopped: dict[str, Path], tmp_path: Path) -> Any:
    """Copies one of them; the settings say where it lies."""

    def copy(method: str) -> Path:
        root = tmp_path / "root"
        shutil.copytree(stopped[method], root)
        raw = json.loads((root / "run" / FILE).read_text())
        raw["settings"] = settings(root, method).resolved()
        raw["model"] = raw["settings"]["model"]
        (root / "run" / FILE).write_text(json.dumps(raw))
        return root

    return copy


def change_row(root: Path, file: str) -> None:
    path = root / "data" / file
    lines = path.read_text().splitlines()
    lines[9] = json.dumps({**json.loads(lines[9]), "sentence": "good tea the warm bad"})
    path.write_text("\n".join(lines) + "\n")


def change_label(root: Path) -> None:
    path = root / "data" / "train.jsonl"
    lines = path.read_text().splitlines()
    row = json.loads(lines[-1])
    lines[-1] = json.dumps({**row, "label": 1 - row["label"]})
    path.write_text("\n".join(lines) + "\n")


def change_weight(root: Path) -> None:
    """The last bit of one weight, as another release of a model may have it."""
    path = root / "model" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("query.weight"))
    tensors[name].view(torch.int32)[5, 3] ^= 1
    save_file(tensors, path, {"format": "pt"})


def change_config(root: Path) -> None:
    path = root / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_dropout_prob": 0.5}))


def change_tokenizer(root: Path) -> None:
    """A word that no row has."""
    path = root / "model" / "tokenizer.json"
    raw = json.loads(path.read_text())
    raw["model"]["vocab"]["snow"] = raw["model"]["vocab"].pop("[MASK]")
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] != "[MASK]"]
    path.write_text(json.dumps(raw))


CHANGES = {
    "a training row": (lambda root: change_row(root, "train.jsonl"), "the training rows are others than when"),
    "a training label": (change_label, "the training rows are others than when the run began"),
    "an evaluation row": (lambda root: change_row(root, "validation.jsonl"), "the rows of validation are others"),
    "a weight": (change_weight, "the base model's weights are others than when the run began"),
    "a dropout": (change_config, r"had config\.hidden_dropout_prob 0\.1, this one has 0\.5; they must be equal"),
    "a word": (change_tokenizer, "the tokenizer's words are others than when the run began"),
}


@pytest.mark.parametrize("method", ["lora", "head"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_named(copied: Any, method: str, change: str) -> None:
    root = copied(method)
    act, message = CHANGES[change]
    act(root)
    before = {path: path.stat().st_mtime_ns for path in (root / "run").rglob("*")}
    with pytest.raises(TapertuneError, match=rf"cannot resume '.*run': .*{message}") as caught:
        run(settings(root, method), resume=True)
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in (root / "run").rglob("*")} == before


def test_files_that_were_written_anew_with_the_same_contents_are_the_same(copied: Any) -> None:
    root = copied("lora")
    for path in [*(root / "data").iterdir(), *(root / "model").iterdir()]:
        path.write_bytes(path.read_bytes())
    assert run(settings(root, "lora"), resume=True)["status"] == "done"


@pytest.mark.parametrize("method", ["lora", "head"])
def test_batches_may_be_split_otherwise(copied: Any, method: str, capsys: Any, caplog: Any) -> None:
    root = copied(method)
    changes = {"training__per_device_train_batch_size": 4, "training__gradient_accumulation_steps": 2}
    assert run(settings(root, method, **changes), resume=True)["status"] == "done"
    said = [*caplog.messages, *capsys.readouterr().err.splitlines()]
    assert sum("batches are the same" in line for line in said) == 1


def test_batches_of_another_size_are_named(copied: Any) -> None:
    root = copied("head")
    with pytest.raises(TapertuneError, match="had per_device_train_batch_size 8, this one has 4; they must be equal"):
        run(settings(root, "head", training__per_device_train_batch_size=4), resume=True)


def test_another_number_of_processes_is_named(copied: Any) -> None:
    root = copied("head")
    raw = json.loads((root / "run" / FILE).read_text())
    raw["trained_on"]["processes"] = 2
    (root / "run" / FILE).write_text(json.dumps(raw))
    with pytest.raises(TapertuneError, match="had processes 2, this one has 1"):
        run(settings(root, "head"), resume=True)


def test_runs_of_earlier_versions_say_nothing_of_it(copied: Any) -> None:
    root = copied("head")
    record = json.loads((root / "run" / FILE).read_text())
    del record["trained_on"]
    (root / "run" / FILE).write_text(json.dumps(record))
    change_row(root, "train.jsonl")
    assert run(settings(root, "head"), resume=True)["status"] == "done"


def test_a_stream_s_file_is_looked_at(tmp_path: Path) -> None:
    write_model(tmp_path / "model", width=8, layers=1)
    write_data(tmp_path / "data", rows=16)
    with pytest.raises(KeyboardInterrupt):
        run(settings(tmp_path, "lora", task__stream=True), display=Interrupt())
    change_label(tmp_path)
    with pytest.raises(TapertuneError, match="the training rows are others than when the run began"):
        run(settings(tmp_path, "lora", task__stream=True), resume=True)
