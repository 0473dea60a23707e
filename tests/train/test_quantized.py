from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from tasks.tiny_text import llama
from tiny import tiny_bert
from torch import nn
from train.tiny_run import raw_settings, write_data, write_model
from train.tiny_written import settings, write

from tapertune.cost.weights import sizes
from tapertune.errors import TapertuneError
from tapertune.runfile.record import read_record
from tapertune.runfile.settings import check_settings
from tapertune.train.evaluation import evaluate
from tapertune.train.models import build
from tapertune.train.runner import run

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
WIDTH = 64  # of a block of numbers with one scale
FOUR = {"bits": 4, "type": "nf4", "compute_dtype": "float32", "double": True}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wide")
    write_model(root / "model", WIDTH)
    write_data(root / "data")
    return root


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"bits": 3}, "quantization.bits is 3; it must be 4 or 8"),
        ({"bits": 4, "type": "nf8"}, "quantization.type is 'nf8'; it must be 'nf4' or 'fp4'"),
        ({"bits": 8, "double": True}, "quantization.double is for 4 bits; quantization.bits is 8"),
        ({"bit": 4}, "unknown setting 'quantization.bit': did you mean 'quantization.bits'?"),
        ({}, "setting quantization.bits is missing: 4 or 8"),
        (4, "quantization is 4; it must be a block of settings"),
    ],
)
def test_wrong_blocks(root: Path, block: Any, message: str) -> None:
    with pytest.raises(TapertuneError) as caught:
        check_settings(raw_settings(root, "lora", quantization=block))
    assert message in str(caught.value)


@pytest.mark.parametrize("method", ["full", "head"])
def test_a_base_that_trains_is_not_quantised(root: Path, method: str) -> None:
    with pytest.raises(TapertuneError, match=f"quantization: {method} has no adapter"):
        check_settings(raw_settings(root, method, quantization=FOUR))


def test_without_the_package_it_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(TapertuneError, match=r"needs bitsandbytes, .*: pip install bitsandbytes"):
        run(check_settings(raw_settings(root, "lora", quantization=FOUR)))
    assert not (root / "run").exists()


def test_parameters_are_counted_however_they_are_packed() -> None:
    model: Any = tiny_bert()
    whole = sizes(model)
    assert whole == {name: parameter.numel() for name, parameter in model.named_parameters()}
    query = model.bert.encoder.layer[0].attention.self.query
    query.weight = nn.Parameter(torch.zeros(128, 1, dtype=torch.uint8), requires_grad=False)  # as 4 bits are kept
    assert sizes(model) == whole


@pytest.mark.extra
@needs_bitsandbytes
@pytest.mark.parametrize(
    ("method", "block"), [("lora", FOUR), ("aflora", {"bits": 4}), ("loran", FOUR), ("lora", {"bits": 8})]
)
def test_a_classifier_on_a_quantised_base(wide: Path, method: str, block: dict[str, Any]) -> None:
    root = wide
    record = run(check_settings(raw_settings(root, method, quantization=block)), overwrite=True)
    plain = check_settings(raw_settings(root, method))
    assert record["parameters"]["base"] == build(plain, plain.task.declaration()).base
    assert record["parameters"]["head"] > 0
    kept = read_record(root / "run").settings["quantization"]
    assert kept["bits"] == block["bits"]
    _, found, _ = evaluate(root / "run", start=lambda rows: lambda done: None)
    assert found["validation"].metrics == pytest.approx(record["metrics"], abs=1e-6)
    assert "BitsAndBytesConfig(load_in_" in (root / "run" / "README.md").read_text()


@pytest.mark.extra
@needs_bitsandbytes
def test_only_the_body_is_quantised(root: Path) -> None:
    made = check_settings(raw_settings(root, "lora", quantization=FOUR))
    built = build(made, made.task.declaration())
    packed = {name for name, module in built.model.named_modules() if type(module).__name__ == "Linear4bit"}
    assert len(packed) == 12 and all(".encoder." in name for name in packed)
    outside = {"pooler", "classifier"}
    assert {part for name in built.head for part in name.split(".")} >= outside


@pytest.mark.extra
@needs_bitsandbytes
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_decoder_on_a_quantised_base(tmp_path: Path, checkpointing: bool) -> None:
    write(tmp_path, llama(width=WIDTH))
    plain = settings(tmp_path, "loran", {"name": "prompt_completion"}).resolved()
    plain["training"] |= {"gradient_checkpointing": checkpointing, "bf16": True, "use_cpu": True}
    made = check_settings({**plain, "dtype": "bfloat16", "quantization": {**FOUR, "compute_dtype": "bfloat16"}})
    record = run(made)
    assert record["parameters"]["head"] == 0
    _, found, _ = evaluate(tmp_path / "run", start=lambda rows: lambda done: None)
    assert found["validation"].metrics == pytest.approx(record["metrics"], abs=1e-6)


@pytest.mark.extra
@needs_bitsandbytes
def test_gradients_still_pass_after_an_evaluation(wide: Path) -> None:
    made = check_settings(raw_settings(wide, "lora", quantization=FOUR))
    model: Any = build(made, made.task.declaration()).model
    batch = {"input_ids": torch.tensor([[2, 5, 7, 3]]), "labels": torch.tensor([1])}

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(0)
        model.train()(**batch).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    before = gradients()
    with torch.no_grad():
        model.eval()(**batch)
    after = gradients()
    assert before.keys() == after.keys() and len(before) > 24
    assert all(torch.equal(before[name], after[name]) for name in before)
