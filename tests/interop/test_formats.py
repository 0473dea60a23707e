"""Exports for llama.cpp, mlx-lm and servers, read back by code that is not the package's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny import tiny_bert

import tapertune
from tapertune.errors import TapertuneError
from tapertune.host import ChainLayer
from tapertune.interop import ExportReport, export, export_lora
from tapertune.methods import METHODS

HEADS, KEY_HEADS, LAYERS, RANK = 4, 2, 2, 4
SIZES = {
    "vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "head_dim": 4, "max_position_embeddings": 32,
}  # fmt: skip
IDS = {"input_ids": torch.arange(3, 15)[None]}
FAMILIES = {
    "Llama": "llama", "Mistral": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3", "Gemma": "gemma", "Gemma2": "gemma2",
    "Gemma3Text": "gemma3", "SmolLM3": "smollm3",
}  # fmt: skip
TIED = pytest.mark.filterwarnings("ignore:.*(tie_word_embeddings|save_embedding_layers):UserWarning")
GGUF_NAMES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
    "up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip


def decoder(family: str = "Llama", **changes: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, f"{family}Config")(**SIZES, **special, **changes)
    name = "Gemma3ForCausalLM" if family == "Gemma3Text" else f"{family}ForCausalLM"
    return getattr(transformers, name)(config).eval()


def decoder_classifier() -> Any:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    return LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=3, pad_token_id=0)).eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    decoder(tie_word_embeddings=False).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"of": "the base"}')
    return folder


def adapted(name: str, base: Path, folder: Path, model: Any = None, **values: Any) -> PeftModel:
    """An adapter on disk, of another rank in each module, and of none in some."""
    torch.manual_seed(1)
    values = {METHODS[name].rank: RANK, "task_type": "CAUSAL_LM", "init_weights": False, **values}
    model = get_peft_model(model or decoder(tie_word_embeddings=False), tapertune.make_config(name, **values)).eval()
    chain = METHODS[name].chain(METHODS[name].settings())
    gate = next((f.name for f in chain if f.symbols == (METHODS[name].rank,)), chain.names[0])
    with torch.no_grad():
        for i, layer in enumerate(layers(model).values()):
            layer.factor("default", gate)[: i % (RANK + 1)] = 0.0
        for key, parameter in model.named_parameters():
            if ".modules_to_save." in key:
                parameter.add_(torch.randn_like(parameter))
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(folder)
    return model


def layers(model: Any) -> dict[str, ChainLayer]:
    return {m.module_path: m for m in model.modules() if isinstance(m, ChainLayer)}


def deltas(model: Any) -> dict[str, torch.Tensor]:
    return {path: layer.get_delta_weight("default").detach() for path, layer in layers(model).items()}


def limits(name: str) -> dict[str, Any]:
    return {} if METHODS[name].chain(METHODS[name].settings()).linear else {"max_error": 1e-6}


def as_llama_cpp(file: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """The file's architecture and updates by tensor, scaled as llama.cpp does: alpha over each tensor's own rank."""
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(file)
    fields = {key: reader.get_field(key).contents() for key in ("general.type", "adapter.type", "general.architecture")}
    assert (fields["general.type"], fields["adapter.type"]) == ("adapter", "lora")
    alpha = reader.get_field("adapter.lora.alpha").contents()
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    names = {name.rsplit(".", 1)[0] for name in tensors}
    assert len(tensors) == 2 * len(names), "llama.cpp refuses any other tensor"
    updates = {}
    for name in names:
        down, up = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        updates[name] = alpha / down.shape[0] * (up @ down)
    return fields["general.architecture"], updates


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """A head's rows as llama.cpp's Llama has them: the first of each half of the head, the second of each, ..."""
    rows = []
    for head in weight.chunk(heads):
        first, second = head.chunk(2)
        rows += [row for pair in zip(first, second, strict=True) for row in pair]
    return torch.stack(rows)


def check_gguf(file: Path, expected: dict[str, torch.Tensor], architecture: str) -> None:
    found, updates = as_llama_cpp(file)
    assert found == architecture
    for path, delta in expected.items():
        _, _, layer, _, kind = path.split(".")
        name = f"blk.{layer}.{GGUF_NAMES[kind]}.weight"
        if architecture in ("llama", "smollm3") and kind in ("q_proj", "k_proj"):
            delta = interleaved(delta, HEADS if kind == "q_proj" else KEY_HEADS)
        update = updates.pop(name, torch.zeros_like(delta))
        assert (update - delta).norm() <= 2e-5 * delta.norm(), name
    assert not updates


@pytest.mark.parametrize("name", METHODS)
def test_gguf_of_every_method(name: str, base: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    model = adapted(name, base, tmp_path / "adapter")
    report = export(tmp_path / "adapter", tmp_path / "out", server="llama.cpp", check=True, **limits(name))
    assert isinstance(report, ExportReport) and (report.to, report.rank) == ("gguf", report.rank or RANK)
    check_gguf(tmp_path / "out" / "adapter.gguf", deltas(model), "llama")
    assert report.comparison is not None and report.comparison.difference <= 3e-5 < 1e-2 < report.comparison.moved
    assert report.commands[1] == f"llama-server --model base.gguf --lora {tmp_path / 'out'}/adapter.gguf"
    ragged = export_lora(tmp_path / "adapter", tmp_path / "ragged", to="gguf", ragged=True, **limits(name))
    assert ragged.notes == [] and ragged.rank is None
    check_gguf(tmp_path / "ragged" / "adapter.gguf", deltas(model), "llama")
    sizes = [(tmp_path / folder / "adapter.gguf").stat().st_size for folder in ("ragged", "out")]
    assert sizes[0] < sizes[1] or not METHODS[name].chain(METHODS[name].settings()).linear


@pytest.mark.parametrize("family", FAMILIES)
def test_gguf_of_every_family(family: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    decoder(family).save_pretrained(tmp_path / "base")
    model = adapted("lora", tmp_path / "base", tmp_path / "adapter", decoder(family))
    export_lora(tmp_path / "adapter", tmp_path / "out", to="gguf")
    check_gguf(tmp_path / "out" / "adapter.gguf", deltas(model), FAMILIES[family])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: gguf" in card and "--lora adapter.gguf" in card


@TIED
def test_gguf_says_what_it_cannot_hold(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    tiny_bert().save_pretrained(tmp_path / "bert")
    adapted("lora", tmp_path / "bert", tmp_path / "encoder", tiny_bert(), task_type="SEQ_CLS")
    adapted("lora", base, tmp_path / "head", target_modules=["q_proj"], modules_to_save=["lm_head"])
    decoder("Olmo2").save_pretrained(tmp_path / "olmo2")
    adapted("elora", tmp_path / "olmo2", tmp_path / "other", decoder("Olmo2"))
    decoder(tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    head = decoder(tie_word_embeddings=True)
    tied = adapted("lora", tmp_path / "tied", tmp_path / "output", head, target_modules=["lm_head"])
    assert layers(tied)
    assert "base_model.model.lm_head.base_layer.weight" in load_file(tmp_path / "output" / "adapter_model.safetensors")
    refused = {
        "encoder": "this is of a bert model for AutoModelForSequenceClassification: serve the merged model",
        "head": r"holds no weights that were trained whole \(lm_head.weight\): .* \(--with-base\)",
        "other": "unknown model type for a GGUF adapter 'olmo2': .*Allowed: gemma, gemma2",
        "output": "changes the output head, which is the embedding",
    }
    for folder, message in refused.items():
        state = tmp_path / folder / "adapter_model.safetensors"
        assert state.exists()
        with pytest.raises(TapertuneError, match=message):
            export_lora(tmp_path / folder, tmp_path / "out", to="gguf", base=None)
    assert not (tmp_path / "out").exists()


def as_mlx(folder: Path) -> dict[str, torch.Tensor]:
    """Updates by module, read as mlx-lm does: from the last layers on, the keys within each, then the model's own."""
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["fine_tune_type"] == "lora" and config["num_layers"] == LAYERS
    parameters = config["lora_parameters"]
    state = load_file(folder / "adapters.safetensors")
    wrapped = [f"model.layers.{i}.{key}" for i in range(LAYERS)[-config["num_layers"] :] for key in parameters["keys"]]
    updates = {}
    for module in wrapped:
        down, up = state.pop(f"{module}.lora_a"), state.pop(f"{module}.lora_b")
        assert down.shape[1] == up.shape[0] == parameters["rank"]
        x = torch.eye(down.shape[0])
        updates[module] = (parameters["scale"] * (x @ down @ up)).T
    assert not state, "weights for which mlx-lm has no layer"
    return updates


@pytest.mark.parametrize("name", METHODS)
def test_mlx_of_every_method(name: str, base: Path, tmp_path: Path) -> None:
    model = adapted(name, base, tmp_path / "adapter", target_modules=["q_proj", "up_proj"])
    report = export(tmp_path / "adapter", tmp_path / "out", server="mlx", check=True, **limits(name))
    updates = as_mlx(tmp_path / "out")
    for path, delta in deltas(model).items():
        assert (updates.pop(path) - delta).norm() <= 2e-5 * delta.norm(), path
    assert all(not update.any() for update in updates.values()), "what fuses with them is zero"
    assert isinstance(report, ExportReport)
    assert report.comparison is not None and report.comparison.difference <= 3e-5 < 1e-2 < report.comparison.moved
    assert report.commands == (f"mlx_lm.server --model {base} --adapter-path {tmp_path / 'out'}",)


def test_mlx_has_one_rank_and_no_heads(base: Path, tmp_path: Path) -> None:
    adapted("lora", base, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["lm_head"])
    for values, message in (({"ragged": True}, "ragged is True; it must be False"), ({}, "trained whole")):
        with pytest.raises(TapertuneError, match=message):
            export_lora(tmp_path / "adapter", tmp_path / "out", to="mlx", **values)
    assert not (tmp_path / "out").exists()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**IDS).logits


@pytest.mark.parametrize("to", ["lora", "gguf", "mlx"])
def test_trained_weights_go_into_a_base_of_their_own(to: str, base: Path, tmp_path: Path) -> None:
    """The base beside the adapter has them, the adapter has not, and both together compute the same."""
    if to == "gguf":
        pytest.importorskip("gguf")
    from transformers import AutoModelForCausalLM

    model = adapted("aflora", base, tmp_path / "adapter", modules_to_save=["lm_head", "embed_tokens"])
    report = export_lora(tmp_path / "adapter", tmp_path / "out", to=to, with_base=True, check=True)
    assert report.base == str(tmp_path / "out" / "base") and report.saved_beside == report.notes == []
    assert report.comparison is not None and report.comparison.difference <= 1e-5 < report.comparison.moved
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "base")
    if to == "lora":
        expected = logits(model)
        model.merge_and_unload()
        torch.testing.assert_close(
            logits(PeftModel.from_pretrained(merged, tmp_path / "out")), expected, rtol=0, atol=1e-5
        )
        fields = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert fields["base_model_name_or_path"] == report.base and fields["modules_to_save"] is None
        assert all(".lora_" in key for key in load_file(tmp_path / "out" / "adapter_model.safetensors"))


@TIED
def test_servers_limits(base: Path, tmp_path: Path) -> None:
    """Each with the line that says what to do instead."""
    adapted("lora", base, tmp_path / "head", target_modules=["q_proj"], modules_to_save=["lm_head"])
    adapted("lora", base, tmp_path / "output", target_modules=["q_proj", "lm_head"])
    tiny_bert().save_pretrained(tmp_path / "bert")
    adapted("lora", tmp_path / "bert", tmp_path / "encoder", tiny_bert(), task_type="SEQ_CLS")
    cases = [
        (
            "head",
            "vllm",
            {},
            r"no weights that were trained whole \(lm_head.weight\): .*--with-base.*--to merged",
        ),
        ("head", "sglang", {}, "--with-base"),
        ("output", "tgi", {}, "tgi takes adapters of down_proj, .*, not of lm_head: serve the merged model"),
        ("encoder", "vllm", {}, "vllm takes adapters of decoders, and this is AutoModelForSequenceClassification's"),
        ("encoder", "sglang", {}, "models that generate text, and this is AutoModelForSequenceClassification's"),
        ("output", "sglang", {"ragged": True}, "ragged is True; it must be False for sglang"),
        ("output", "tgi", {"ragged": True}, "ragged is True; it must be False for tgi"),
        ("encoder", "tgi", {"to": "merged"}, "tgi serves models that generate text"),
    ]
    for folder, server, values, message in cases:
        with pytest.raises(TapertuneError, match=message):
            export(tmp_path / folder, tmp_path / "out", server=server, **values)
    assert not (tmp_path / "out").exists()
    served = export(tmp_path / "head", tmp_path / "served", server="vllm", with_base=True)
    options = "--enable-lora --max-lora-rank 8 --lora-modules"
    assert served.commands == (f"vllm serve {tmp_path / 'served' / 'base'} {options} adapter={tmp_path / 'served'}",)
    classifier = decoder_classifier()
    classifier.save_pretrained(tmp_path / "classifier-base")
    values = {"modules_to_save": ["score"], "task_type": "SEQ_CLS"}
    adapted("lora", tmp_path / "classifier-base", tmp_path / "classifier", classifier, **values)
    report = export(tmp_path / "classifier", tmp_path / "scored", server="vllm")
    assert isinstance(report, ExportReport) and report.saved_beside == ["score.weight"], "vLLM has a place for this one"
    merged = export(tmp_path / "encoder", tmp_path / "merged", server="vllm", to="merged")
    assert merged.commands == (f"vllm serve {tmp_path / 'merged'}",)


def test_a_rank_above_a_servers() -> None:
    from tapertune.interop.servers import check_limits

    facts: dict[str, Any] = {"ragged": False, "modules": ["q_proj"], "saved": [], "model": "AutoModelForCausalLM"}
    with pytest.raises(TapertuneError, match="rank is 640; it must be at most 512 for vllm: --rank or --energy cuts"):
        check_limits("vllm", "lora", rank=640, **facts)
    check_limits("vllm", "lora", rank=512, **facts)


def test_ranks_that_tgi_pads_are_not_written(base: Path, tmp_path: Path) -> None:
    adapted("sora", base, tmp_path / "adapter", target_modules=["q_proj", "v_proj"])
    report = export(tmp_path / "adapter", tmp_path / "out", server="tgi")
    assert isinstance(report, ExportReport) and report.rank == 8 and report.lossless
    assert report.commands == (
        f"text-generation-launcher --model-id {base} --lora-adapters adapter={tmp_path / 'out'}",
    )


def test_a_difference_above_the_bound_fails(base: Path, tmp_path: Path) -> None:
    adapted("lora", base, tmp_path / "adapter")
    for to in ("lora", "mlx", "merged"):
        with pytest.raises(TapertuneError, match=r"gives other logits .* where 1\.0e-03 is allowed"):
            export(tmp_path / "adapter", tmp_path / "out", to=to, rank=1, max_difference=1e-3)
    assert not (tmp_path / "out").exists()


def test_what_travels_along(base: Path, tmp_path: Path) -> None:
    """The adapter's own tokenizer, else the base's; the task's file; readable by others."""
    adapted("sora", base, tmp_path / "adapter")
    (tmp_path / "adapter" / "task.json").write_text('{"labels": ["no", "yes"]}')
    export_lora(tmp_path / "adapter", tmp_path / "first")
    assert (tmp_path / "first" / "tokenizer_config.json").read_text() == '{"of": "the base"}'
    (tmp_path / "adapter" / "tokenizer_config.json").write_text('{"of": "the adapter"}')
    for to in ("lora", "mlx", "merged"):
        export(tmp_path / "adapter", tmp_path / to, to=to)
        assert (tmp_path / to / "tokenizer_config.json").read_text() == '{"of": "the adapter"}'
        assert json.loads((tmp_path / to / "task.json").read_text()) == {"labels": ["no", "yes"]}
        assert (tmp_path / to / "README.md").is_file()
        modes = {path.stat().st_mode & 0o777 for path in (tmp_path / to).iterdir() if path.is_file()}
        assert len(modes) == 1 and modes.pop() & 0o600 == 0o600
    (tmp_path / "adapter" / "merges.txt").symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_text("x")
    with pytest.raises(TapertuneError, match=r"merges\.txt is a link that leads out of its folder"):
        export_lora(tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()
