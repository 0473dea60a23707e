"""Full weights: the outputs, the files, the names, the memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import batch, tiny_bert, tiny_gpt2
from torch import nn

import tapertune
from tapertune.errors import TapertuneError
from tapertune.host import ChainLayer
from tapertune.interop import MergeReport, export, export_lora, merge
from tapertune.methods import METHODS

IDS = {"input_ids": batch()["input_ids"]}


def adapted(name: str, base: nn.Module, folder: Path, **values: Any) -> PeftModel:
    torch.manual_seed(1)
    values = {METHODS[name].rank: 3, "init_weights": False, **values}
    model = get_peft_model(base, tapertune.make_config(name, **values)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".modules_to_save." in key:
                parameter.add_(torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def load(folder: Path, kind: str = "AutoModelForSequenceClassification") -> nn.Module:
    import transformers

    return getattr(transformers, kind).from_pretrained(folder).eval()


def tiny_llama(**values: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes, **values)).eval()


@pytest.mark.parametrize("name", METHODS)
def test_outputs_files_and_index(name: str, tmp_path: Path) -> None:
    """Sharded, a head replaced, other files copied."""
    tiny_bert().save_pretrained(tmp_path / "base", max_shard_size="8KB")
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    model = adapted(name, tiny_bert(), tmp_path / "adapter", modules_to_save=["classifier"])
    report = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    close(load(tmp_path / "out")(**batch()).logits, model(**batch()).logits)
    assert report.replaced == ["classifier.bias", "classifier.weight"]
    assert (report.added, report.warnings, report.rounding) == ([], [], 0.0)
    assert len(report.shards) > 2
    names = [sorted(p.name for p in (tmp_path / folder).iterdir()) for folder in ("base", "out")]
    assert names[1] == sorted([*names[0], "README.md"])
    index = [json.loads((tmp_path / f / "model.safetensors.index.json").read_text()) for f in ("base", "out")]
    assert index[0]["weight_map"] == index[1]["weight_map"]
    assert index[0]["metadata"]["total_size"] == index[1]["metadata"]["total_size"]


def test_weights_that_no_adapter_touches_are_the_same_bytes(tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path / "base")
    adapted("lora", tiny_bert(), tmp_path / "adapter", target_modules=["query"])
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("base", "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"bert.encoder.layer.{i}.attention.self.query.weight" for i in range(2)}


@pytest.mark.parametrize("name", ["lora2", "loran"])
def test_conv1d(name: str, tmp_path: Path) -> None:
    """GPT-2's weights lie the other way round; in the hub's files their names lack the prefix."""
    base = tiny_gpt2()
    base.save_pretrained(tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    save_file({k.removeprefix("transformer."): t for k, t in load_file(path).items()}, path, {"format": "pt"})
    for targets in (["c_attn", "c_proj", "c_fc"], ["attn.c_proj"]):  # of the latter, all are square
        folder = tmp_path / targets[0]
        model = adapted(name, tiny_gpt2(), folder / "adapter", target_modules=targets)
        merge(tmp_path / "base", folder / "adapter", folder / "out")
        close(load(folder / "out", "AutoModelForCausalLM")(**IDS).logits, model(**IDS).logits)


def test_a_bare_encoder_gets_a_head(tmp_path: Path) -> None:
    tiny_bert().bert.save_pretrained(tmp_path / "base", max_shard_size="8KB")  # type: ignore[union-attr]
    model = adapted("aflora", tiny_bert(), tmp_path / "adapter", modules_to_save=["classifier"])
    report = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert report.added == ["classifier.bias", "classifier.weight"]
    assert "added to the base: classifier.bias (2,), classifier.weight (2, 16)" in report.warnings[0]
    close(load(tmp_path / "out")(**batch()).logits, model(**batch()).logits)


def test_an_encoders_adapter_on_a_checkpoint_with_a_head(tmp_path: Path) -> None:
    base = tiny_bert()
    base.save_pretrained(tmp_path / "base")
    model = adapted("aflora", tiny_bert().bert, tmp_path / "adapter")  # type: ignore[union-attr]
    expected = model(**IDS).last_hidden_state
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    close(load(tmp_path / "out", "AutoModel")(**IDS).last_hidden_state, expected)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_tied_head(tmp_path: Path) -> None:
    """An update of the head alone, or an embedding that was trained alone, ends the tie."""
    tiny_llama(tie_word_embeddings=True).save_pretrained(tmp_path / "base")
    base = tiny_llama(tie_word_embeddings=False)
    base.load_state_dict(tiny_llama(tie_word_embeddings=True).state_dict())
    model = adapted("lora", base, tmp_path / "a", target_modules=["lm_head", "q_proj"])
    report = merge(tmp_path / "base", tmp_path / "a", tmp_path / "out")
    assert report.added == ["lm_head.weight"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    close(load(tmp_path / "out", "AutoModelForCausalLM")(**IDS).logits, model(**IDS).logits)
    weights = tmp_path / "a" / "adapter_model.safetensors"
    state = load_file(weights)
    kept = {key: tensor for key, tensor in state.items() if ".base_layer." not in key}
    assert len(kept) == len(state) - 1, "PEFT saves the adapted head itself, too"
    save_file(kept, weights)
    merge(tmp_path / "base", tmp_path / "a", tmp_path / "again")
    close(load(tmp_path / "again", "AutoModelForCausalLM")(**IDS).logits, model(**IDS).logits)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_trained_embedding_of_a_tied_model(tmp_path: Path) -> None:
    tiny_llama(tie_word_embeddings=True).save_pretrained(tmp_path / "base")
    values = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "task_type": "CAUSAL_LM"}
    model = adapted("lora", tiny_llama(tie_word_embeddings=True), tmp_path / "adapter", **values)
    report = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert (report.replaced, report.added) == (["model.embed_tokens.weight"], ["lm_head.weight"])
    close(load(tmp_path / "out", "AutoModelForCausalLM")(**IDS).logits, model(**IDS).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["adalora", "loran"])
def test_other_dtypes(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tiny_bert().to(dtype).save_pretrained(tmp_path / "base")
    model = adapted(name, tiny_bert(), tmp_path / "adapter")
    report = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    out, base = (load_file(tmp_path / f / "model.safetensors") for f in ("out", "base"))
    for layer in (m for m in model.modules() if isinstance(m, ChainLayer)):
        key = f"{layer.module_path}.weight"
        assert out[key].dtype == dtype
        # added in float32 and rounded once
        expected = (base[key].float() + layer.get_delta_weight("default").float()).to(dtype)
        bound = torch.finfo(dtype if dtype != torch.float64 else torch.float32).eps
        torch.testing.assert_close(out[key], expected, rtol=bound, atol=1e-6)
    half = dtype != torch.float64
    assert bool(report.warnings) == (half and name == "loran")
    assert (1e-5 < report.rounding < 0.5) == half
    if report.warnings:
        assert "cannot hold the fine structure of loran's map" in report.warnings[0]


MEASURE = """
import re, sys
import torch
from tapertune.interop import MergeReport, export, export_lora, merge

def memory(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

torch.linalg.qr(torch.randn(64, 64).double() @ torch.randn(64, 64).double())  # libraries set up at first use
for folder in sys.argv[1:]:
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before = memory("VmRSS")
    merge(*(f"{folder}/{name}" for name in ("base", "adapter", "out")))
    print(memory("VmHWM") - before)
"""
SHARD = 64 << 20


def large(folder: Path, name: str, dtype: torch.dtype) -> int:
    """A base of four shards, two of them one tensor each, and an adapter of it; returns the adapter's bytes."""
    width, base, weight_map, shapes = 2048, folder / "base", {}, {}
    rows = SHARD // (width * dtype.itemsize)
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    for i, parts in enumerate((1, 1, 6, 8), 1):
        chunks = torch.zeros(rows, width, dtype=dtype).chunk(parts)
        tensors = {f"{i}.{j}.weight": chunk.clone() for j, chunk in enumerate(chunks)}
        save_file(tensors, base / f"model-0000{i}-of-00004.safetensors")
        weight_map |= dict.fromkeys(tensors, f"model-0000{i}-of-00004.safetensors")
        shapes |= {key.removesuffix(".weight"): tensor.shape for key, tensor in tensors.items()}
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    tapertune.make_config(name, r=8, target_modules=sorted(shapes)).save_pretrained(str(folder / "adapter"))
    adapter = {
        f"base_model.model.{module}.tapertune_{name}_{factor}.weight": torch.ones(shape)
        for module, (d_out, d_in) in shapes.items()
        for factor, shape in (("A", (8, d_in)), ("B", (d_out, 8)))
    }
    save_file(adapter, folder / "adapter" / "adapter_model.safetensors")
    return sum(tensor.nbytes for tensor in adapter.values())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory can be reset on Linux only")
def test_memory_stays_below_one_and_a_half_shards(tmp_path: Path) -> None:
    cases = {"lora": torch.float32, "loran": torch.bfloat16}
    sizes = [large(tmp_path / name, name, dtype) for name, dtype in cases.items()]
    command = [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    peaks = [int(line) for line in done.stdout.split()]
    print({name: f"{peak / SHARD:.2f} shards" for name, peak in zip(cases, peaks, strict=True)})
    for name, peak, size in zip(cases, peaks, sizes, strict=True):
        assert peak < 1.5 * SHARD + size, name
        merged = load_file(tmp_path / name / "out" / "model-00003-of-00004.safetensors")["3.2.weight"]
        assert torch.allclose(merged.float(), torch.tensor(16.0), rtol=1e-2)  # 16 / 8 times a sum of eight ones


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_bert().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    adapted("aflora", tiny_bert(), tmp_path / "adapter", modules_to_save=["classifier"])
    return tmp_path / "adapter"


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refused(base: Path | str, adapter: Path, message: str) -> None:
    out = adapter.parent / "out"
    with pytest.raises(TapertuneError, match=message):
        merge(base, adapter, out)
    assert not [p for p in adapter.parent.iterdir() if "out" in p.name], "nothing is written"


def test_quantised_bases(base: Path, adapter: Path) -> None:
    weights = base / "model.safetensors"
    state = load_file(weights)
    key = "bert.encoder.layer.0.attention.self.query.weight"
    save_file(state | {key: state[key].to(torch.int8)}, weights)
    refused(base, adapter, rf"is quantised \({key} is I8\)")
    change(base / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    refused(base, adapter, r"is quantised \(bitsandbytes\)")
    weights.rename(base / "model.gguf")
    refused(base / "model.gguf", adapter, "a GGUF file, which is quantised")
    refused(base, adapter, r"only \.gguf")


def test_shapes_that_differ(base: Path, adapter: Path) -> None:
    weights = base / "model.safetensors"
    state = load_file(weights)
    key = "bert.encoder.layer.1.output.dense"
    save_file(state | {f"{key}.weight": torch.ones(16, 64)}, weights)
    refused(base, adapter, rf"{key}: the adapter is for a weight of shape \(16, 32\), .*base has \(16, 64\)")
    save_file(state | {"classifier.weight": torch.ones(3, 16)}, weights)
    refused(base, adapter, r"classifier.weight: the adapter is for a weight of shape \(2, 16\), .*base has \(3, 16\)")


def test_modules_without_a_weight(base: Path, adapter: Path) -> None:
    weights = base / "model.safetensors"
    state = load_file(weights)
    missing = "bert.encoder.layer.1.output.dense"
    save_file({k: t for k, t in state.items() if k != f"{missing}.weight"}, weights)
    refused(base, adapter, rf"no weight for the adapted module {missing}; the nearest is bert.encoder.layer")
    twice = {f"{tower}.{k.removeprefix('bert.')}": t.clone() for k, t in state.items() for tower in ("left", "right")}
    save_file(twice, weights)
    refused(base, adapter, "could be 'left.encoder.*' or 'right.encoder.*'")


def test_damaged_files(base: Path, adapter: Path) -> None:
    weights = base / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    refused(base, adapter, "is damaged or cut short")
    weights.write_bytes(content[:100])
    refused(base, adapter, "is damaged or cut short")
    weights.write_bytes(b"\x10" + bytes(7) + b"x" * 100)
    refused(base, adapter, "is damaged")
    weights.unlink()
    refused(base, adapter, r"no model\.safetensors")
    index = base / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    refused(base, adapter, "cannot read .*00001-of-00001")
    (base / "pytorch_model.bin").write_bytes(b"")
    index.unlink()
    refused(base, adapter, "save it again with save_pretrained")
    (base / "config.json").unlink()
    refused(base, adapter, "cannot read .*config.json")
    refused("./nowhere", adapter, "no folder")
    refused("no-one/no-model", adapter, "neither a folder nor to be had from the Hub")


def test_a_folder_that_is_taken(base: Path, adapter: Path) -> None:
    with pytest.raises(TapertuneError, match="is not empty"):
        merge(base, adapter, base)


def test_a_name_on_the_hub(base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(base))
    report = merge("someone/some-model", adapter, adapter.parent / "out")
    assert asked == ["someone/some-model"]
    assert len(report.modules) == 12


def test_modules_pruned_to_nothing(base: Path, tmp_path: Path) -> None:
    adapted("sora", tiny_bert(), tmp_path / "adapter", target_modules=["query", "key"])
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    state = load_file(weights)
    for key in [k for k in state if ".key." in k]:
        state[key] = state[key][:, :0].contiguous() if "_B." in key else state[key][:0]
    save_file(state, weights)
    merge(base, tmp_path / "adapter", tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"bert.encoder.layer.{i}.attention.self.query.weight" for i in range(2)}
    report = export_lora(tmp_path / "adapter", tmp_path / "lora")
    assert len(report.modules) == len(report.left_out) == 2


@pytest.mark.parametrize("name", METHODS)
def test_merged_by_export_in_another_dtype(name: str, tmp_path: Path) -> None:
    """The labels and their order are there for plain transformers, and what rounding takes is measured."""
    tiny_bert(labels=3).save_pretrained(tmp_path / "base")
    values = {"modules_to_save": ["classifier"], "task_type": "SEQ_CLS"}
    model = adapted(name, tiny_bert(labels=3), tmp_path / "adapter", **values)
    (tmp_path / "adapter" / "task.json").write_text(json.dumps({"labels": ["neutral", "against", "for"]}))
    options = {"base": tmp_path / "base", "to": "merged", "check": True}
    exact = export(tmp_path / "adapter", tmp_path / "exact", **options)
    half = export(tmp_path / "adapter", tmp_path / "half", dtype="bfloat16", **options)
    assert isinstance(exact, MergeReport) and isinstance(half, MergeReport)
    assert exact.lost < 1e-6 < 1e-4 < half.lost < 1
    assert (exact.dtype, half.dtype) == ("float32", "bfloat16")
    assert exact.comparison is not None and exact.comparison.difference < 1e-5 < exact.comparison.moved
    assert {t.dtype for t in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
    loaded = load(tmp_path / "half")
    assert type(loaded).__name__ == "BertForSequenceClassification" and loaded.dtype == torch.bfloat16
    assert loaded.config.id2label == {0: "neutral", 1: "against", 2: "for"}
    torch.testing.assert_close(loaded.float()(**batch()).logits, model(**batch()).logits, atol=0.1, rtol=0.05)
    close(load(tmp_path / "exact")(**batch()).logits, model(**batch()).logits)
    card = (tmp_path / "half" / "README.md").read_text()
    assert "library_name: transformers" in card and f"{half.lost:.1e} of the update is lost" in card


@pytest.mark.parametrize("name", ["elora", "loran"])
def test_a_cut_update_is_merged(name: str, tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path / "base")
    model = adapted(name, tiny_bert(), tmp_path / "adapter")
    report = export(tmp_path / "adapter", tmp_path / "out", base=tmp_path / "base", to="merged", energy=0.5, check=True)
    assert isinstance(report, MergeReport) and report.comparison is not None and report.comparison.difference > 1e-4
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("base", "out"))
    for layer in (m for m in model.modules() if isinstance(m, ChainLayer)):
        key = f"{layer.module_path}.weight"
        update, delta = after[key] - before[key], layer.get_delta_weight("default")
        assert ((update - delta).norm() / delta.norm()).item() ** 2 <= 0.5 + 1e-4
        assert torch.linalg.matrix_rank(update, atol=1e-5) < 3


def test_a_dtype_that_there_is_not(tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path / "base")
    adapted("lora", tiny_bert(), tmp_path / "adapter")
    with pytest.raises(TapertuneError, match=r"unknown dtype 'float8': .*Allowed: bfloat16, float16, float32"):
        merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out", dtype="float8")
    assert not (tmp_path / "out").exists()
