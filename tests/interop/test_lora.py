"""Plain LoRA out of every method, loaded by PEFT in a process that has no tapertune."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import batch, mlp, tiny_bert, tiny_gpt2

import tapertune
from tapertune.errors import TapertuneError
from tapertune.host import ChainLayer
from tapertune.interop import export_lora, export_model_lora
from tapertune.methods import METHODS

LINEAR = [name for name, method in METHODS.items() if method.chain(method.settings()).linear]

PLAIN = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification as Auto
base, rows, out, *folders = sys.argv[1:]
found = {}
for folder in folders:
    model = PeftModel.from_pretrained(Auto.from_pretrained(base), folder).eval()
    found[folder] = model(**torch.load(rows)).logits
torch.save(found, out)
assert not any(name.partition(".")[0] == "tapertune" for name in sys.modules)
"""


def adapted(name: str, base: torch.nn.Module, **values: Any) -> PeftModel:
    torch.manual_seed(1)
    values = {METHODS[name].rank: 3, "init_weights": False, **values}
    return get_peft_model(base, tapertune.make_config(name, **values)).eval()


def layers(model: torch.nn.Module) -> dict[str, ChainLayer]:
    return {m.module_path: m for m in model.modules() if isinstance(m, ChainLayer)}


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_bert().save_pretrained(folder)
    return folder


def saved(name: str, base: Path, folder: Path, **values: Any) -> PeftModel:
    values = {"modules_to_save": ["classifier"], "task_type": "SEQ_CLS", **values}
    model = adapted(name, tiny_bert(), **values)
    with torch.no_grad():
        for parameter in model.base_model.model.classifier.parameters():
            parameter.add_(0.5)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def without_tapertune(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    """By method: our logits, those of the export without tapertune, and the export's report."""
    folder = tmp_path_factory.mktemp("exports")
    torch.save(batch(), folder / "rows.pt")
    ours, reports = {}, {}
    for name in METHODS:
        model = saved(name, base, folder / name)
        ours[name] = model(**batch()).logits.detach()
        limit = None if name in LINEAR else 1e-6
        reports[name] = export_lora(folder / name, folder / f"{name}-lora", max_error=limit)
    arguments = [base, folder / "rows.pt", folder / "logits.pt", *(folder / f"{name}-lora" for name in METHODS)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["TAPERTUNE_AUTOLOAD"] = "0"  # a place where tapertune is not installed
    command = [sys.executable, "-W", "error::UserWarning", "-c", PLAIN, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    theirs = torch.load(folder / "logits.pt")
    return {name: (ours[name], theirs[str(folder / f"{name}-lora")], reports[name]) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_outputs_without_tapertune(name: str, without_tapertune: dict[str, tuple[Any, ...]]) -> None:
    ours, theirs, report = without_tapertune[name]
    assert distance(theirs, ours) <= 1e-6
    assert report.worst <= 1e-6
    assert report.lossless == (name in LINEAR)
    assert report.saved_beside == ["classifier.bias", "classifier.weight"]
    assert len(report.modules) == 12


@pytest.mark.parametrize("name", LINEAR)
def test_the_rank_is_not_larger_than_the_chains(name: str, without_tapertune: dict[str, tuple[Any, ...]]) -> None:
    report = without_tapertune[name][2]
    assert {row.rank for row in report.modules} == {3}


def test_the_config_is_the_plain_one(base: Path, tmp_path: Path) -> None:
    """Fields that servers read; one scaling for all modules, as they use the config's."""
    model = saved("aflora", base, tmp_path / "adapter", modules_to_save=None, task_type=None, lora_alpha=32)
    export_lora(tmp_path / "adapter", tmp_path / "out")
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == files
    fields = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert fields.pop("peft_version") == peft.__version__
    assert LoraConfig(**fields).target_modules == {"query", "key", "value", "intermediate.dense", "output.dense"}
    assert fields["modules_to_save"] is None
    assert fields["lora_alpha"] == fields["r"] == 3
    assert fields["base_model_name_or_path"] == str(base)
    state = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for module, layer in layers(model).items():
        down, up = (state.pop(f"base_model.model.{module}.lora_{side}.weight") for side in "AB")
        assert distance(up @ down, layer.get_delta_weight("default")) <= 1e-6
    assert not state


@pytest.mark.parametrize(("name", "gate"), [("sora", "g"), ("adalora", "E"), ("lora2", "E"), ("aflora", "d")])
def test_closed_gates_are_dropped(name: str, gate: str, tmp_path: Path) -> None:
    values = {METHODS[name].rank: 4, **({"k": 4} if name == "lora2" else {})}
    model = adapted(name, tiny_bert().double(), **values)
    paths = list(layers(model))
    with torch.no_grad():
        for i, layer in enumerate(layers(model).values()):
            layer.factor("default", gate)[: min(i, 4)] = 0.0
    expected = model(**batch()).logits
    model.save_pretrained(tmp_path / "adapter")
    report = export_lora(tmp_path / "adapter", tmp_path / "out", ragged=True)
    assert report.rank is None and "llama.cpp, Ollama and TensorRT-LLM" in report.notes[0]
    assert {row.module: (row.rank_before, row.rank) for row in report.modules} == {
        path: (4, 4 - i) for i, path in enumerate(paths) if i < 4
    }
    assert set(report.left_out) == set(paths[4:])
    fields = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert fields["r"] == 4
    assert fields["rank_pattern"] == fields["alpha_pattern"] == {p: 4 - i for i, p in enumerate(paths[:4])}
    plain = PeftModel.from_pretrained(tiny_bert().double(), tmp_path / "out").eval()
    assert distance(plain(**batch()).logits, expected) <= 1e-6


def test_modules_whose_name_ends_like_anothers(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"0": torch.nn.Linear(4, 4), "a": torch.nn.ModuleDict({"0": torch.nn.Linear(4, 4)})})
    model = adapted("sora", model, target_modules=["0"])
    with torch.no_grad():
        layers(model)["0"].factor("default", "g")[0] = 0.0
    model.save_pretrained(tmp_path / "adapter")
    export_lora(tmp_path / "adapter", tmp_path / "out")
    bare = torch.nn.ModuleDict({"0": torch.nn.Linear(4, 4), "a": torch.nn.ModuleDict({"0": torch.nn.Linear(4, 4)})})
    plain = PeftModel.from_pretrained(bare, tmp_path / "out")
    for path, layer in layers(model).items():
        theirs = plain.base_model.model.get_submodule(path)
        assert distance(theirs.get_delta_weight("default"), layer.get_delta_weight("default")) <= 1e-6


@pytest.mark.parametrize("save_projection", [True, False])
def test_shared_projections_wider_than_the_modules(save_projection: bool, base: Path, tmp_path: Path) -> None:
    """A rank above the widths is cut to them, and the widths come from the base; by seed, or from the file."""
    model = saved("elora", base, tmp_path / "adapter", r=24, save_projection=save_projection, init_weights=True)
    with torch.no_grad():
        for layer in layers(model).values():
            torch.nn.init.normal_(layer.factor("default", "b"))
    model.save_pretrained(tmp_path / "adapter")
    report = export_lora(tmp_path / "adapter", tmp_path / "out")
    assert {row.rank for row in report.modules} == {16}
    plain = PeftModel.from_pretrained(tiny_bert(), tmp_path / "out").eval()
    assert distance(plain(**batch()).logits, model.eval()(**batch()).logits) <= 1e-6
    change(tmp_path / "adapter", base_model_name_or_path=None)
    with pytest.raises(TapertuneError, match="name the base model"):
        export_lora(tmp_path / "adapter", tmp_path / "none")
    assert export_lora(tmp_path / "adapter", tmp_path / "named", base=base).worst <= 1e-6


def test_a_model_in_memory(tmp_path: Path) -> None:
    ids = {"input_ids": batch()["input_ids"]}
    for name in ("aflora", "elora"):
        model = adapted(name, tiny_gpt2())
        report = export_model_lora(model, tmp_path / name)
        assert report.worst <= 1e-6
        plain = PeftModel.from_pretrained(tiny_gpt2(), tmp_path / name).eval()  # fan_in_fan_out is set: no warning
        assert distance(plain(**ids).logits, model(**ids).logits) <= 1e-6
    with pytest.raises(TapertuneError, match="no adapter 'other'"):
        export_model_lora(model, tmp_path / "other", adapter_name="other")


def test_half_precision_adapters_are_folded_in_float64(tmp_path: Path) -> None:
    model = adapted("lora2", mlp(), target_modules=["0", "2"]).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "adapter")
    assert export_lora(tmp_path / "adapter", tmp_path / "out").worst <= 1e-6


@pytest.mark.parametrize("limit", [0.5, 0.1, 1e-3])
def test_a_dense_update_is_cut_at_the_smallest_rank(limit: float, tmp_path: Path) -> None:
    model = adapted("loran", mlp(), target_modules=["0", "2"], activation="tanh")
    with torch.no_grad():
        for layer in layers(model).values():
            layer.factor("default", "B").mul_(3)
    model.save_pretrained(tmp_path / "adapter")
    report = export_lora(tmp_path / "adapter", tmp_path / "out", max_error=limit)
    assert not report.lossless
    state = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for row in report.modules:
        delta = layers(model)[row.module].get_delta_weight("default").double()
        down, up = (state[f"base_model.model.{row.module}.lora_{side}.weight"] for side in "AB")
        assert distance(up @ down, delta) == pytest.approx(row.error, abs=1e-6)
        assert row.error <= limit
        s = torch.linalg.svdvals(delta)
        assert s[row.rank - 1 :].norm() > limit * s.norm(), "a rank less would do"


def change(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    adapted("loran", mlp(), target_modules=["0", "2"]).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("limit", "message"),
    [(None, "no lossless LoRA form"), (0.0, "max_error is 0.0"), (1.5, "max_error is 1.5"), (1e-12, "float32 cannot")],
)
def test_an_error_that_cannot_be_met(limit: float | None, message: str, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(TapertuneError, match=message):
        export_lora(adapter, tmp_path / "out", max_error=limit)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]


def test_an_update_of_zero_is_refused(tmp_path: Path) -> None:
    adapted("aflora", mlp(), target_modules=["0"], init_weights=True).save_pretrained(tmp_path / "adapter")
    with pytest.raises(TapertuneError, match="zero in every module"):
        export_lora(tmp_path / "adapter", tmp_path / "out")


def test_folders_that_are_taken(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(TapertuneError, match="is not empty"):
        export_lora(adapter, adapter, max_error=0.1)
    (tmp_path / "file").write_text("")
    with pytest.raises(TapertuneError, match="is a file"):
        export_lora(adapter, tmp_path / "file", max_error=0.1)
    (tmp_path / "empty").mkdir()
    export_lora(adapter, tmp_path / "empty", max_error=0.1)


def test_adapters_that_cannot_be_read(adapter: Path, tmp_path: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    state = load_file(weights)
    key = "base_model.model.0.tapertune_loran_"
    bad = {
        "factor B is missing": {k: v for k, v in state.items() if k != f"{key}B.weight"},
        "B has shape": state | {f"{key}A.weight": torch.ones(2, 6)},
        "has no factor 'C'": state | {f"{key}C.weight": torch.ones(2)},
        "not finite": state | {f"{key}A.weight": state[f"{key}A.weight"] / 0},
        "it should be d_out x r": state | {f"{key}B.weight": torch.ones(3)},
        "no tensor of loran": {"classifier.weight": torch.ones(2)},
    }
    for message, tensors in bad.items():
        save_file(tensors, weights)
        with pytest.raises(TapertuneError, match=message):
            export_lora(adapter, tmp_path / "out", max_error=0.1)
    weights.write_bytes(b"12345678901234567890")
    with pytest.raises(TapertuneError, match="damaged or cut short"):
        export_lora(adapter, tmp_path / "out", max_error=0.1)
    weights.unlink()
    with pytest.raises(TapertuneError, match="no weights"):
        export_lora(adapter, tmp_path / "out", max_error=0.1)
    change(adapter, peft_type="LORA")
    with pytest.raises(TapertuneError, match=r"type LORA, not tapertune's; `tapertune import` reads it"):
        export_lora(adapter, tmp_path / "out", max_error=0.1)
    with pytest.raises(TapertuneError, match="no adapter folder"):
        export_lora(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()
