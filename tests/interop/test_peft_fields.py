"""Every field of PEFT's configs: carried, harmless or refused, by the tables and in what comes out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from tapertune.errors import TapertuneError
from tapertune.interop import import_adapter, merge
from tapertune.interop.importers.peft_fields import TABLES, Carried, Harmless, Refused, pattern_value

IDS = torch.arange(12).view(2, 6)
CLASSES = {"LORA": LoraConfig, "ADALORA": AdaLoraConfig, "VERA": VeraConfig}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*will be ignored when `init_lora_weights`:UserWarning"),
]


def llama(tie: bool = False) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=24, tie_word_embeddings=tie)).eval()


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("name", CLASSES)
def test_the_tables_have_every_field(name: str) -> None:
    """A field that a new PEFT adds fails here until somebody says what becomes of it."""
    fields = {field.name for field in dataclasses.fields(CLASSES[name])}
    assert fields - TABLES[name].keys() == set()
    assert TABLES[name].keys() - fields == set()
    assert all(rule.why for rule in TABLES[name].values() if isinstance(rule, Harmless))


@pytest.mark.parametrize("name", CLASSES)
def test_a_default_config_is_imported(name: str) -> None:
    """No default of PEFT's is refused."""
    from tapertune.interop.importers.peft_fields import check_fields
    from tapertune.interop.importers.source import Source

    values = {"total_step": 10} if name == "ADALORA" else {}
    config = json.loads(json.dumps(CLASSES[name](**values).to_dict(), default=list))
    check_fields(Source(Path("somewhere"), config, {}), TABLES[name], closed=True)


def saved(folder: Path, config: LoraConfig, tie: bool = False, **values: Any) -> torch.Tensor:
    """Saves an adapter with random weights; returns what the model with it says."""
    torch.manual_seed(1)
    model = get_peft_model(llama(tie), config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key or ".modules_to_save." in key:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder, **values)
    return logits(model)


def loaded(folder: Path, tie: bool = False) -> torch.Tensor:
    return logits(PeftModel.from_pretrained(llama(tie), folder).eval())


# ---- carried ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"layers.1.self_attn.q_proj": 5}},
        {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {r"layers\.\d\.self_attn\.v_proj": 5}, "use_rslora": True},
        {"exclude_modules": ["v_proj"], "layers_to_transform": [1]},
        {"layers_to_transform": [0], "layers_pattern": "layers"},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal", "r": 4},
        {"init_lora_weights": "mica"},
        {"lora_dropout": 0.3},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"modules_to_save": ["norm"], "task_type": "CAUSAL_LM"},
        {"target_modules": ["q_proj", "lm_head"]},
        {"velora_config": {"num_groups": 4, "scale": 1.0, "init_type": "random"}},
    ],
    ids=lambda fields: "+".join(fields) or "plain",
)
def test_what_is_carried(fields: dict[str, Any], tmp_path: Path) -> None:
    """Imported and loaded, and merged into the base, it says what PEFT's own says."""
    expected = saved(tmp_path / "in", LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], **fields}))
    assert (expected - logits(llama())).abs().max() > 0.005
    import_adapter(tmp_path / "in", tmp_path / "out")
    torch.testing.assert_close(loaded(tmp_path / "out"), expected, atol=1e-5, rtol=1e-4)
    llama().save_pretrained(tmp_path / "base")
    merge(tmp_path / "base", tmp_path / "out", tmp_path / "merged")
    whole = type(llama()).from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(whole), expected, atol=1e-5, rtol=1e-4)


def test_embeddings_saved_beside(tmp_path: Path) -> None:
    """``save_embedding_layers`` writes whole weights that no module to save claims."""
    config = LoraConfig(r=2, target_modules=["q_proj"])
    expected = saved(tmp_path / "in", config, save_embedding_layers=True)
    report = import_adapter(tmp_path / "in", tmp_path / "out")
    assert sorted(report.adapter.extras) == ["lm_head.weight", "model.embed_tokens.weight"]
    torch.testing.assert_close(loaded(tmp_path / "out"), expected, atol=1e-5, rtol=1e-4)


def test_a_tied_head(tmp_path: Path) -> None:
    expected = saved(tmp_path / "in", LoraConfig(r=2, target_modules=["lm_head", "q_proj"]), tie=True)
    import_adapter(tmp_path / "in", tmp_path / "out")
    torch.testing.assert_close(loaded(tmp_path / "out", tie=True), expected, atol=1e-5, rtol=1e-4)
    llama(tie=True).save_pretrained(tmp_path / "base")
    merge(tmp_path / "base", tmp_path / "out", tmp_path / "merged")
    whole = type(llama()).from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(whole), expected, atol=1e-5, rtol=1e-4)


# ---- refused ---------------------------------------------------------------------------------------------------------


def refused(folder: Path, message: str) -> None:
    with pytest.raises(TapertuneError, match=message) as caught:
        import_adapter(folder, folder.parent / "out")
    assert "\n" not in str(caught.value)
    assert not (folder.parent / "out").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_2"},
        {"init_lora_weights": "olora"},
        {"use_dora": True},
        {"lora_bias": True},
        {"bias": "lora_only"},
        {"bias": "all"},
        {"trainable_token_indices": [1, 2]},
        {"layer_replication": [(0, 2), (1, 2)]},
        {"alora_invocation_tokens": [1, 2], "task_type": "CAUSAL_LM"},
        {"kasa_config": {}},
        {"arrow_config": {"top_k": 1}},
        {"use_bdlora": {"target_modules_bd_a": ["q_proj"], "nblocks": 2, "match_strict": False}},
        {"target_parameters": ["lm_head.weight"]},
        {"monteclora_config": {}},
    ],
    ids=lambda fields: next(iter(fields)) + "=" + str(next(iter(fields.values())))[:12],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_what_is_refused_as_peft_saves_it(fields: dict[str, Any], tmp_path: Path) -> None:
    """Real adapters of each variant: the line names the field."""
    name = next(iter(fields))
    try:
        saved(tmp_path / "in", LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], **fields}))
    except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
        pytest.skip(f"PEFT makes none here: {error}")
    refused(tmp_path / "in", name)


@pytest.mark.parametrize("method", TABLES)
def test_every_refused_field_is_named(method: str, tmp_path: Path) -> None:
    make(tmp_path / "in", method)
    for name, rule in TABLES[method].items():
        if isinstance(rule, Refused):
            change(tmp_path / "in", **{name: "something else"})
            refused(tmp_path / "in", rf"{name} is 'something else'.* allowed: ")
            change(tmp_path / "in", **{name: None})
    change(tmp_path / "in", a_field_of_tomorrow=True)
    refused(tmp_path / "in", "a_field_of_tomorrow is True, a field that is not known")
    change(tmp_path / "in", a_field_of_tomorrow=None)
    import_adapter(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("start", ["PiSSA", "pissa_niter_4", "corda", "loftq", "lora_ga", "a_start_of_tomorrow", 3, []])
def test_starts_that_change_the_base(start: Any, tmp_path: Path) -> None:
    make(tmp_path / "in", "LORA")
    change(tmp_path / "in", init_lora_weights=start)
    refused(tmp_path / "in", "init_lora_weights is .*path_initial_model_for_weight_conversion")


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights:UserWarning")
def test_a_start_that_peft_has_converted(tmp_path: Path) -> None:
    """Saved with the way back to the base's weights, PiSSA is plain LoRA of twice the rank."""
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa")
    model = get_peft_model(llama(), config).eval()
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    expected = logits(model)
    model.save_pretrained(tmp_path / "in", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    import_adapter(tmp_path / "in", tmp_path / "out")
    torch.testing.assert_close(loaded(tmp_path / "out"), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("trained", [["embed_tokens"], ["lm_head"]])
def test_tying_that_peft_ensures(trained: list[str], tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=trained, ensure_weight_tying=True)
    try:
        saved(tmp_path / "in", config, tie=True)
    except RuntimeError as error:
        pytest.skip(f"PEFT cannot save it: {error}")
    refused(tmp_path / "in", "ensure_weight_tying is true beside trained weights")


def test_copies_of_a_module(tmp_path: Path) -> None:
    make(tmp_path / "in", "LORA")
    path = tmp_path / "in" / "adapter_model.safetensors"
    state = load_file(path)
    keys = [f"base_model.model.head.{part}weight" for part in ("", "modules_to_save.default.", "modules_to_save.b.")]
    for pair in (keys[:2], keys[1:]):
        save_file(state | {key: torch.ones(2, 4) for key in pair}, path)
        refused(tmp_path / "in", "several copies of a module saved whole")


# ---- other types -----------------------------------------------------------------------------------------------------


def make(folder: Path, method: str) -> None:
    root = "base_model.model.fc"
    tensors = {"LORA": {"lora_A.weight": (2, 4), "lora_B.weight": (4, 2)}}
    tensors["ADALORA"] = {"lora_A": (2, 4), "lora_B": (4, 2), "lora_E": (2, 1)}
    tensors["VERA"] = {"vera_lambda_b": (4,), "vera_lambda_d": (2,)}
    values = {"ADALORA": {"init_r": 2, "lora_alpha": 4}, "VERA": {"r": 2, "projection_prng_key": 3}}
    folder.mkdir()
    save_file({f"{root}.{k}": torch.ones(s) for k, s in tensors[method].items()}, folder / "adapter_model.safetensors")
    config = {"peft_type": method, "base_model_name_or_path": "b", **values.get(method, {"r": 2, "lora_alpha": 4})}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def change(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("method", TABLES)
@pytest.mark.parametrize("wrong", [[], {}, "x", 1.5, {"a": []}, [{}], True, float("nan"), 10**400], ids=repr)
def test_fields_of_another_type(method: str, wrong: Any, tmp_path: Path) -> None:
    """Taken where the type is right, else one line with file, field and value."""
    make(tmp_path / "in", method)
    path = tmp_path / "in" / "adapter_config.json"
    whole = path.read_text()
    for name, rule in TABLES[method].items():
        if not isinstance(rule, Carried) or name == "peft_type":
            continue
        change(tmp_path / "in", **{name: wrong})
        try:
            import_adapter(tmp_path / "in", tmp_path / f"out-{name}")
        except TapertuneError as error:
            assert name in str(error) or (name.endswith("r") and "rank" in str(error))
            assert "\n" not in str(error) and len(str(error)) < 600
        path.write_text(whole)


def test_patterns_that_never_end() -> None:
    module = "a" * 200
    for pattern in ("(a+)+b", "(a|a)*b", "a*a*a*a*a*a*b", "((a{1,9})+)+b", "(", "a" * 2000):
        with pytest.raises(TapertuneError, match="pattern"):
            pattern_value({pattern: 1}, module, 0)
    assert pattern_value({r"layers\.\d+\.q_proj": 1}, "model.layers.12.q_proj", 0) == 1
    assert pattern_value({"^model.decoder.k_proj": 1, "k_proj": 2}, "model.decoder.k_proj", 0) in (1, 2)
