"""Adapters of ours, of PEFT's, and files that are not whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tapertune
from tapertune.interop import description

HIDDEN, INNER, RANK = 16, 32, 4


def save(folder: Path, config: Any) -> Path:
    from peft import get_peft_model
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": INNER}
    model = BertForSequenceClassification(BertConfig(vocab_size=50, **sizes))
    get_peft_model(model, config).save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    targets = ["query", "intermediate.dense"]
    config = tapertune.make_config("aflora", r=RANK, target_modules=targets, task_type="SEQ_CLS")
    config.frozen = {"bert.encoder.layer.0.intermediate.dense": ["A", "B"]}
    return save(tmp_path / "adapter", config)


def change(folder: Path, **fields: Any) -> None:
    path = folder / description.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_counts_agree_with_the_chain(cli: Any, adapter: Path) -> None:
    done = cli("inspect", adapter, "--json")
    assert done.code == 0
    facts = json.loads(done.out)
    assert (facts["method"], facts["made_with"], facts["r"], facts["scaling"]) == ("aflora", "tapertune", RANK, 1.0)
    d_in, d_out = 2 * HIDDEN, HIDDEN + INNER
    expected = {"A": RANK * d_in, "B": RANK * d_out, "b": d_out, "d": 2 * RANK}
    assert facts["parameters"] == {"total": sum(expected.values()), **expected}
    assert facts["adapted_modules"] == 2
    assert facts["saved_modules"] == {"classifier": 2 * HIDDEN + 2}
    assert facts["frozen"] == {"bert.encoder.layer.0.intermediate.dense": ["A", "B"]}
    assert facts["bytes"] == (adapter / description.WEIGHTS).stat().st_size
    assert facts["dtypes"] == ["F32"]


def test_text_says_what_matters(cli: Any, adapter: Path) -> None:
    done = cli("inspect", adapter)
    assert done.code == 0
    for text in ("aflora", "intermediate.dense, query", "1 A, 1 B", "classifier 34", "2 modules"):
        assert text in done.out


def test_pruned_ranks_are_told(cli: Any, adapter: Path) -> None:
    change(adapter, ranks={"bert.encoder.layer.0.intermediate.dense": 2})
    assert "to rank 2 to 2 in 1 modules" in cli("inspect", adapter).out


def test_versions_come_from_the_run(cli: Any, adapter: Path) -> None:
    (adapter / "run.json").write_text(json.dumps({"schema_version": 1, "versions": {"torch": "2.13.0"}}))
    assert json.loads(cli("inspect", adapter, "--json").out)["versions"] == {"torch": "2.13.0"}


def test_plain_lora_adapter_is_said_to_be_one(cli: Any, tmp_path: Path) -> None:
    from peft import LoraConfig

    folder = save(tmp_path, LoraConfig(r=4, lora_alpha=8, target_modules=["query"], use_rslora=True))
    done = cli("inspect", folder)
    assert done.code == 0
    assert "a plain PEFT adapter" in done.out
    facts = description.describe_adapter(folder)
    assert (facts["method"], facts["made_with"], facts["scaling"]) == ("lora", "peft", 4.0)
    assert facts["parameters"] == {"total": 128, "A": 64, "B": 64}


def test_no_weights_are_loaded(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose tensors are all holes is described as well: only its header is read."""
    import os
    import struct

    path = adapter / description.WEIGHTS
    before = description.describe_adapter(adapter)
    size = path.stat().st_size
    header = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    os.truncate(path, header)
    os.truncate(path, size)
    assert description.describe_adapter(adapter) == before


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_weights(cli: Any, adapter: Path, keep: int) -> None:
    path = adapter / description.WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    done = cli("inspect", adapter)
    assert done.code == 2
    assert "damaged or cut short" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "no JSON object"), ("{}", "no peft_type"), ("\xff", "not JSON")],
)
def test_broken_config(cli: Any, adapter: Path, text: str, message: str) -> None:
    (adapter / description.CONFIG).write_bytes(text.encode("latin-1"))
    done = cli("inspect", adapter)
    assert done.code == 2
    assert message in done.err


def test_config_fields_out_of_range(cli: Any, adapter: Path) -> None:
    change(adapter, r=0)
    done = cli("inspect", adapter)
    assert (done.code, done.err) == (
        2,
        f"error: {adapter / description.CONFIG}: r is 0; it must be a positive whole number\n",
    )


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (
            description.SCHEMA_VERSION + 1,
            f"adapter schema {description.SCHEMA_VERSION + 1}; this tapertune reads up to",
        ),
        ("one", "schema_version is 'one'; it must be a whole number"),
    ],
)
def test_newer_schema_is_refused(cli: Any, adapter: Path, version: Any, words: str) -> None:
    change(adapter, schema_version=version)
    done = cli("inspect", adapter)
    assert done.code == 2
    assert words in done.err


def test_schema_version_is_that_of_the_configs() -> None:
    from tapertune.host.config import SCHEMA_VERSION

    assert description.SCHEMA_VERSION == SCHEMA_VERSION


def test_missing_files(cli: Any, adapter: Path) -> None:
    assert "no adapter folder" in cli("inspect", adapter / "nowhere").err
    (adapter / description.WEIGHTS).rename(adapter / "adapter_model.bin")
    done = cli("inspect", adapter)
    assert done.code == 2
    assert "is a pickle and is not read" in done.err
    (adapter / description.CONFIG).unlink()
    done = cli("inspect", adapter)
    assert done.code == 2
    assert "cannot read" in done.err
