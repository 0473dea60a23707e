"""Adapters of experts as plain LoRA: stacked for PEFT and vLLM's 3D models, matrix by matrix for the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from experts import EXPERTS, gpt_oss, mixtral, qwen3_moe, tokens
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

import tapertune
from tapertune.errors import TapertuneError
from tapertune.interop import export_lora, export_model_lora, merge
from tapertune.methods import METHODS

# PEFT's own, of the ranks that its conversion of each matrix by itself sets
pytestmark = pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")

LINEAR = [name for name in METHODS if METHODS[name].chain(METHODS[name].settings()).linear]


def adapted(name: str, base: Any, **values: Any) -> Any:
    torch.manual_seed(1)
    config = tapertune.make_config(name, **{METHODS[name].rank: 3, "init_weights": False, **values})
    return get_peft_model(base, config).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**tokens()).logits


@pytest.mark.parametrize("name", METHODS)
def test_plain_peft_loads_what_is_stacked(name: str, tmp_path: Path) -> None:
    linear = name in LINEAR
    base = mixtral if linear else qwen3_moe
    model = adapted(name, base(), target_modules=["q_proj"], target_parameters=[*EXPERTS, "mlp.gate.weight"])
    expected = logits(model)
    options: dict[str, Any] = {} if linear else {"max_error": 1e-5}
    report = export_model_lora(model, tmp_path / "out", **options)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == report.rank and len(config["target_parameters"]) == 3
    plain = PeftModel.from_pretrained(base(), tmp_path / "out")
    assert any(type(module).__name__ == "ParamWrapper" for module in plain.modules())
    torch.testing.assert_close(logits(plain), expected, atol=1e-4, rtol=1e-3)


def test_stored_transposed(tmp_path: Path) -> None:
    model = adapted("aflora", gpt_oss(), target_modules=[], target_parameters=EXPERTS)
    export_model_lora(model, tmp_path / "out")
    plain = PeftModel.from_pretrained(gpt_oss(), tmp_path / "out")
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("base", "home", "names"), [
    (mixtral, "block_sparse_moe", ("w1", "w3", "w2")),
    (qwen3_moe, "mlp", ("gate_proj", "up_proj", "down_proj")),
])  # fmt: skip
@pytest.mark.parametrize("name", ["adalora", "elora"])
def test_each_matrix_by_itself(name: str, base: Any, home: str, names: tuple[str, ...], tmp_path: Path) -> None:
    """Under the checkpoint's names; PEFT, which knows them from older transformers, computes the same."""
    model = adapted(name, base(), target_modules=["q_proj"], target_parameters=EXPERTS)
    expected = logits(model)
    report = export_model_lora(model, tmp_path / "out", experts="each")
    state = load_file(tmp_path / "out" / "adapter_model.safetensors")
    keys = {key.removeprefix("base_model.model.") for key in state}
    assert {f"model.layers.0.{home}.experts.{i}.{n}.lora_B.weight" for i in range(4) for n in names} <= keys
    assert report.lossless and not any("gate_up" in key for key in keys)
    plain = PeftModel.from_pretrained(base(), tmp_path / "out")
    torch.testing.assert_close(logits(plain), expected, atol=1e-4, rtol=1e-3)


def test_from_files_and_refusals(tmp_path: Path) -> None:
    mixtral().save_pretrained(tmp_path / "base")
    model = adapted("sora", mixtral(), target_modules=["q_proj"], target_parameters=EXPERTS, task_type="CAUSAL_LM")
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    for form in ("stacked", "each"):
        report = export_lora(tmp_path / "adapter", tmp_path / form, experts=form)
        assert not any("not in the base" in note for note in report.notes)
        plain = PeftModel.from_pretrained(mixtral(), tmp_path / form)
        torch.testing.assert_close(logits(plain), logits(model), atol=1e-4, rtol=1e-3)
    with pytest.raises(TapertuneError, match="unknown form of experts 'stackd': did you mean 'stacked'"):
        export_lora(tmp_path / "adapter", tmp_path / "no", experts="stackd")
    with pytest.raises(TapertuneError, match="ragged"):
        export_lora(tmp_path / "adapter", tmp_path / "no", ragged=True)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(("name", "base"), [("aflora", mixtral), ("loran", qwen3_moe)])
def test_merged_into_a_checkpoint(name: str, base: Any, tmp_path: Path) -> None:
    fresh = base()
    fresh.save_pretrained(tmp_path / "base")
    model = adapted(name, base(), target_modules=["q_proj"], target_parameters=EXPERTS)
    model.save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    merged = type(fresh).from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(merged), logits(model), atol=1e-4, rtol=1e-3)
