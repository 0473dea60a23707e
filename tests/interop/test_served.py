"""The default export as PEFT, llama.cpp and SGLang read it: one rank, one scaling, no module of a kind missing."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_bert, tiny_gpt2

import tapertune
from tapertune.errors import TapertuneError
from tapertune.host import ChainLayer
from tapertune.interop import ExportReport, export_lora, export_model_lora
from tapertune.methods import METHODS

LINEAR = [name for name, method in METHODS.items() if method.chain(method.settings()).linear]
IDS = {"input_ids": torch.arange(3, 15)[None]}
RANK = 4


def gate_of(name: str) -> str:
    """The factor of which zeros close components: a vector of the rank, else the first matrix."""
    chain = METHODS[name].chain(METHODS[name].settings())
    return next((f.name for f in chain if f.symbols == (METHODS[name].rank,)), chain.names[0])


def llama(**changes: Any) -> Any:
    """Two layers of a Llama whose keys and values are narrower than its queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=24, max_position_embeddings=32, **sizes, **changes)
    ).eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    llama().save_pretrained(folder)
    return folder


def adapted(name: str, base: Path | None, model: Any = None, **values: Any) -> PeftModel:
    torch.manual_seed(1)
    values = {METHODS[name].rank: RANK, "task_type": "CAUSAL_LM", "init_weights": False, **values}
    model = get_peft_model(model or llama(), tapertune.make_config(name, **values)).eval()
    model.peft_config["default"].base_model_name_or_path = str(base) if base else None
    return model


def close_gates(model: Any, name: str) -> dict[str, int]:
    """Closes another number of components in each module, all of them in some; the ranks that are left."""
    ranks = {}
    with torch.no_grad():
        for i, layer in enumerate(m for m in model.modules() if isinstance(m, ChainLayer)):
            layer.factor("default", gate_of(name))[: i % (RANK + 1)] = 0.0
            ranks[layer.module_path] = RANK - i % (RANK + 1)
    return ranks


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**IDS).logits


def by_own_rank(model: Any, folder: Path) -> Any:
    """Adds each pair of tensors to its weight as llama.cpp does: scaled by the one alpha over that tensor's rank."""
    model = copy.deepcopy(model)
    alpha = json.loads((folder / "adapter_config.json").read_text())["lora_alpha"]
    state = load_file(folder / "adapter_model.safetensors")
    downs = [key for key in state if key.endswith(".lora_A.weight")]
    assert len(downs) * 2 == len(state), "llama.cpp's converter refuses any other tensor"
    with torch.no_grad():
        for key in downs:
            down, up = state[key], state[key.replace("lora_A", "lora_B")]
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            model.get_submodule(module).weight += alpha / down.shape[0] * (up @ down)
    return model


def check_stackable(folder: Path) -> dict[str, torch.Tensor]:
    """What SGLang and TGI need: one rank, q, k and v and gate and up together, in every layer; short names."""
    config = json.loads((folder / "adapter_config.json").read_text())
    state = load_file(folder / "adapter_model.safetensors")
    assert config["rank_pattern"] == config["alpha_pattern"] == {} and config["r"] == config["lora_alpha"]
    assert config["bias"] == "none" and config["modules_to_save"] is None
    assert config["peft_version"] == peft.__version__
    assert {t.shape[0] for key, t in state.items() if "lora_A" in key} == {config["r"]}
    assert {t.shape[1] for key, t in state.items() if "lora_B" in key} == {config["r"]}
    names = {key.split(".")[-3] for key in state}
    assert names == set(config["target_modules"])
    for group in ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}):
        assert not group & names or group <= names
    assert len(state) == 2 * 2 * len(names), "each kind in both layers"
    return state


def same(model: Any, folder: Path, expected: torch.Tensor, limit: float = 1e-5) -> None:
    """Both readers give these logits, with nothing missing and nothing unexpected."""
    check_stackable(folder)
    plain = PeftModel.from_pretrained(llama(), folder)
    assert type(plain.peft_config["default"]).__name__ == "LoraConfig"
    for other in (plain, by_own_rank(llama(), folder)):
        torch.testing.assert_close(logits(other), expected, rtol=0, atol=limit)
    assert (logits(llama()) - expected).abs().max() > 100 * limit, "the adapter changes something"


def limits(name: str) -> dict[str, Any]:
    return {} if name in LINEAR else {"max_error": 1e-6}


@pytest.mark.parametrize("name", METHODS)
def test_pruned_to_other_ranks_in_each_module(name: str, base: Path, tmp_path: Path) -> None:
    model = adapted(name, base)
    ranks = close_gates(model, name)
    assert set(ranks.values()) == {0, 1, 2, 3, 4}
    model.save_pretrained(tmp_path / "adapter")
    report = export_lora(tmp_path / "adapter", tmp_path / "out", **limits(name))
    same(model, tmp_path / "out", logits(model))
    assert report.notes == [] and report.worst <= 1e-6
    if name in LINEAR:
        assert {row.module: row.rank for row in report.modules} == {m: rank for m, rank in ranks.items() if rank}
        assert report.zeros == report.left_out == sorted(m for m, rank in ranks.items() if not rank)
        assert report.rank == RANK
    in_memory = export_model_lora(model, tmp_path / "memory", **limits(name))
    assert in_memory.zeros == report.zeros
    assert {row.module: row.rank for row in in_memory.modules} == {row.module: row.rank for row in report.modules}
    same(model, tmp_path / "memory", logits(model))


@pytest.mark.parametrize("name", METHODS)
def test_kinds_that_some_layers_or_groups_lack(name: str, base: Path, tmp_path: Path) -> None:
    model = adapted(name, base, target_modules=["q_proj", "v_proj", "up_proj"], layers_to_transform=[1])
    model.save_pretrained(tmp_path / "adapter")
    report = export_lora(tmp_path / "adapter", tmp_path / "out", **limits(name))
    same(model, tmp_path / "out", logits(model))
    assert len(report.modules) == 3 and len(report.zeros) == 2 * 5 - 3
    assert report.left_out == []
    state = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert state["base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight"].shape[0] == 8
    export_model_lora(model, tmp_path / "memory", **limits(name))
    assert load_file(tmp_path / "memory" / "adapter_model.safetensors").keys() == state.keys()


@pytest.mark.parametrize(
    ("values", "rank"), [({"rank": 6}, 6), ({"round_up": True}, 8), ({"rank": 9, "round_up": True}, 16)]
)
def test_a_larger_rank(values: dict[str, Any], rank: int, base: Path, tmp_path: Path) -> None:
    model = adapted("adalora", base)
    close_gates(model, "adalora")
    model.save_pretrained(tmp_path / "adapter")
    report = export_lora(tmp_path / "adapter", tmp_path / "out", **values)
    assert report.rank == rank and report.lossless
    same(model, tmp_path / "out", logits(model))


def test_a_rank_above_vllms(base: Path, tmp_path: Path) -> None:
    adapted("lora", base).save_pretrained(tmp_path / "adapter")
    with pytest.raises(TapertuneError, match="rank is 513; it must be at most 512"):
        export_lora(tmp_path / "adapter", tmp_path / "out", rank=513, round_up=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("values", [{"rank": 2}, {"energy": 0.9}])
@pytest.mark.parametrize("ragged", [False, True])
def test_cut_by_singular_values(ragged: bool, values: dict[str, Any], name: str, base: Path, tmp_path: Path) -> None:
    model = adapted(name, base)
    model.save_pretrained(tmp_path / "adapter")
    report = export_lora(tmp_path / "adapter", tmp_path / "out", ragged=ragged, **values)
    assert not report.lossless
    state = load_file(tmp_path / "out" / "adapter_model.safetensors")
    deltas = {
        m.module_path: m.get_delta_weight("default").double() for m in model.modules() if isinstance(m, ChainLayer)
    }
    ranks = set()
    for row in report.modules:
        down, up = (state[f"base_model.model.{row.module}.lora_{side}.weight"].double() for side in "AB")
        delta = deltas[row.module]
        s = torch.linalg.svdvals(delta)
        error = ((up @ down - delta).norm() / delta.norm()).item()
        assert error == pytest.approx(row.error, abs=1e-5)
        assert error == pytest.approx((s[row.rank :].norm() / s.norm()).item(), abs=1e-5), "no cut loses less"
        if "energy" in values:
            assert error**2 <= 0.1 + 1e-6
            assert (s[row.rank - 1 :].norm() / s.norm()).item() ** 2 > 0.1, "a rank less would not do"
        else:
            assert row.rank == 2
        ranks.add(down.shape[0])
    assert report.worst > 1e-3
    assert ragged or ranks == {report.rank} == {max(row.rank for row in report.modules)}


def test_a_rank_and_an_error_that_do_not_go_together(base: Path, tmp_path: Path) -> None:
    for name in ("lora", "loran"):
        adapted(name, base).save_pretrained(tmp_path / name)
        with pytest.raises(TapertuneError, match=r"rank 1 cannot hold the update to a relative error of 0\.001"):
            export_lora(tmp_path / name, tmp_path / "out", rank=1, max_error=1e-3)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "rank is 0; it must be a whole number of at least 1"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"rank": 17}, "rank is 17; it must be between 1 and 16, the rank of the adapter's largest module"),
        ({"energy": 0.0}, "energy is 0.0; it must be above 0 and at most 1"),
        ({"energy": 1.5}, "energy is 1.5"),
        ({"energy": 0.9, "rank": 2}, "None when rank is given"),
        ({"round_up": True, "ragged": True}, "round_up is True; it must be False for a ragged export"),
    ],
)
def test_values_out_of_range(values: dict[str, Any], message: str, base: Path, tmp_path: Path) -> None:
    model = adapted("lora", base)
    model.save_pretrained(tmp_path / "adapter")
    for export, source in ((export_lora, tmp_path / "adapter"), (export_model_lora, model)):
        with pytest.raises(TapertuneError, match=message):
            export(source, tmp_path / "out", **values)
    assert not (tmp_path / "out").exists()


def test_targets_are_named_so_that_no_other_module_is_meant(tmp_path: Path) -> None:
    """The shortest endings, but not ``dense``, which is the pooler too."""
    tiny_bert().save_pretrained(tmp_path / "base")
    model = adapted("sora", tmp_path / "base", tiny_bert(), target_modules=["intermediate.dense"], task_type="SEQ_CLS")
    model.save_pretrained(tmp_path / "adapter")
    export_lora(tmp_path / "adapter", tmp_path / "out")
    fields = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert fields["target_modules"] == ["intermediate.dense"]
    plain = PeftModel.from_pretrained(tiny_bert(), tmp_path / "out").eval()
    torch.testing.assert_close(logits(plain), logits(model), rtol=0, atol=1e-5)


def test_conv1d_of_a_base_on_disk(tmp_path: Path) -> None:
    tiny_gpt2().save_pretrained(tmp_path / "base")
    model = adapted("aflora", tmp_path / "base", tiny_gpt2())
    model.save_pretrained(tmp_path / "adapter")
    export_lora(tmp_path / "adapter", tmp_path / "out")
    plain = PeftModel.from_pretrained(tiny_gpt2(), tmp_path / "out")  # fan_in_fan_out is set: no warning
    torch.testing.assert_close(logits(plain), logits(model), rtol=0, atol=1e-5)


def test_a_base_that_cannot_be_found(base: Path, tmp_path: Path) -> None:
    """The adapter's own modules are there; what cannot be known is said in a line."""
    for named in (None, tmp_path / "gone"):
        model = adapted("sora", None, target_modules=["q_proj", "v_proj"])
        close_gates(model, "sora")
        model.save_pretrained(tmp_path / f"adapter-{named is None}")
        path = tmp_path / f"adapter-{named is None}" / "adapter_config.json"
        fields = {**json.loads(path.read_text()), "base_model_name_or_path": named and str(named)}
        path.write_text(json.dumps(fields))
        report = export_lora(tmp_path / f"adapter-{named is None}", tmp_path / f"out-{named is None}")
        (note,) = report.notes
        assert "only the adapter's own modules are written" in note and "--base" in note and "q_proj" in note
        assert ("names no base model" in note) == (named is None) and "\n" not in note
        plain = PeftModel.from_pretrained(llama(), tmp_path / f"out-{named is None}")
        torch.testing.assert_close(logits(plain), logits(model), rtol=0, atol=1e-5)
        with pytest.raises(TapertuneError, match=r"cannot be read|name it \(--base\)"):
            export_lora(tmp_path / f"adapter-{named is None}", tmp_path / "none", check=True)
    with pytest.raises(TapertuneError, match="cannot be read"):
        export_lora(tmp_path / "adapter-True", tmp_path / "none", base=tmp_path / "nowhere")
    report = export_lora(tmp_path / "adapter-True", tmp_path / "named", base=base)
    assert report.notes == []
    same(model, tmp_path / "named", logits(model))
    fields = json.loads((tmp_path / "named" / "adapter_config.json").read_text())
    assert fields["base_model_name_or_path"] == str(base)
    assert not (tmp_path / "none").exists()


def test_a_base_within_another_model(base: Path, tmp_path: Path) -> None:
    """The adapter's paths begin with what the wrapper calls the model; widths are found all the same."""
    model = adapted("sora", None, torch.nn.ModuleDict({"0": llama().model}), target_modules=["q_proj"], task_type=None)
    model.save_pretrained(tmp_path / "adapter")
    report = export_lora(tmp_path / "adapter", tmp_path / "out", base=base)
    assert report.notes == []
    assert report.zeros == [f"0.layers.{i}.self_attn.{name}_proj" for i in range(2) for name in "kv"]
    wrapped = torch.nn.ModuleDict({"0": llama().model})
    plain = PeftModel.from_pretrained(wrapped, tmp_path / "out")
    for path, layer in ((m.module_path, m) for m in model.modules() if isinstance(m, ChainLayer)):
        theirs = plain.get_submodule(f"base_model.model.{path}").get_delta_weight("default")
        torch.testing.assert_close(theirs, layer.get_delta_weight("default"), rtol=0, atol=1e-6)
    with pytest.raises(TapertuneError, match="logits cannot be compared"):
        export_lora(tmp_path / "adapter", tmp_path / "none", base=base, check=True)


def test_an_adapter_of_another_model(base: Path, tmp_path: Path) -> None:
    model = adapted("lora", base, tiny_bert(), task_type="SEQ_CLS", target_modules=["query"])
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(TapertuneError, match=r"none of the adapter's modules is in the base model .*\.query"):
        export_lora(tmp_path / "other", tmp_path / "out")
    wide = llama(head_dim=8)
    adapted("lora", base, wide, target_modules=["q_proj"]).save_pretrained(tmp_path / "wide")
    with pytest.raises(TapertuneError, match=r"q_proj' has shape \(16, 16\), the adapter is for \(32, 16\)"):
        export_lora(tmp_path / "wide", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", METHODS)
def test_logits_are_compared(name: str, base: Path, tmp_path: Path) -> None:
    model = adapted(name, base)
    close_gates(model, name)
    model.save_pretrained(tmp_path / "adapter")
    found = export_lora(tmp_path / "adapter", tmp_path / "out", check=True, **limits(name)).comparison
    assert found is not None
    assert found.difference <= 1e-5 < 1e-2 < found.moved
    cut = export_lora(tmp_path / "adapter", tmp_path / "cut", check=True, rank=1).comparison
    assert cut is not None and cut.difference > 1e-3


def test_a_comparison_finds_a_wrong_export(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors written at twice their scale; nothing is left of such an export."""
    from tapertune.interop.formats import FORMATS

    def twice(folder: Path, contents: Any) -> None:
        plain.write(folder, contents)
        path = folder / "adapter_model.safetensors"
        save_file({k: 2 * t if "lora_B" in k else t for k, t in load_file(path).items()}, path)

    plain = FORMATS["lora"]
    monkeypatch.setitem(FORMATS, "lora", replace(plain, write=twice))
    adapted("aflora", base).save_pretrained(tmp_path / "adapter")
    with pytest.raises(TapertuneError, match="gives other logits than the adapter"):
        export_lora(tmp_path / "adapter", tmp_path / "out", check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_a_trained_head(tmp_path: Path) -> None:
    """It goes along for PEFT, with a line that says which servers do not take it; its size is known to the check."""
    tiny_bert().save_pretrained(tmp_path / "base")
    values = {"modules_to_save": ["classifier"], "task_type": "SEQ_CLS"}
    model = adapted("aflora", tmp_path / "base", tiny_bert(labels=5), **values)
    model.save_pretrained(tmp_path / "adapter")
    report = export_lora(tmp_path / "adapter", tmp_path / "out", check=True)
    (note,) = report.notes
    assert "classifier.bias, classifier.weight" in note and "vLLM and llama.cpp refuse" in note
    assert report.comparison is not None and report.comparison.difference <= 1e-5
    plain = PeftModel.from_pretrained(tiny_bert(labels=5), tmp_path / "out")
    torch.testing.assert_close(logits(plain), logits(model), rtol=0, atol=1e-5)


def test_the_card(base: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    model = adapted("sora", base)
    close_gates(model, "sora")
    model.save_pretrained(tmp_path / "adapter")
    report: ExportReport = export_lora(tmp_path / "adapter", tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "peft" and card.data.base_model is None, "a folder is no name on the Hub"
    for text in (f"{len(report.zeros)} of them zero", "one rank, 4, in all modules", "--max-lora-rank 8"):
        assert text in card.text
