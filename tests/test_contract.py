"""The promises that every method keeps. A new row of METHODS is tested by being there."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from tiny import batch, checkpoint, mlp, tiny_bert, tiny_gpt2
from torch import nn

import tapertune
from tapertune.host import ChainLayer, adapter_parameters
from tapertune.methods import METHODS


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["node", "small"], autouse=True)
def form(request: pytest.FixtureRequest, small_elements: Callable[[int], None]) -> None:
    """What computes a layer: a node, or torch's own operations as for small inputs."""
    small_elements(0 if request.param == "node" else 1 << 30)


def adapted(name: str, base: nn.Module | None = None, **values: Any) -> PeftModel:
    """A model with an adapter of that method; random, not an identity, unless told otherwise."""
    values = {METHODS[name].rank: 3, "init_weights": False, **values}
    if base is None:
        base = mlp()
        values.setdefault("target_modules", ["0", "2"])
    torch.manual_seed(1)
    return get_peft_model(base, tapertune.make_config(name, **values))


def layers(model: nn.Module) -> list[ChainLayer]:
    return [m for m in model.modules() if isinstance(m, ChainLayer)]


def close(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


X = torch.linspace(-1, 1, 30).view(5, 6)


def test_identity_at_start(name: str) -> None:
    for base, args in ((tiny_bert(), batch()), (tiny_gpt2(), {"input_ids": batch()["input_ids"]})):
        expected = base.eval()(**args).logits
        model = adapted(name, base, init_weights=True).eval()
        assert layers(model)
        assert torch.equal(model(**args).logits, expected)


def test_output_is_base_plus_delta(name: str) -> None:
    model = adapted(name)
    for layer, width in zip(layers(model), (6, 10), strict=True):
        x = torch.randn(5, width)
        delta = layer.get_delta_weight("default")
        assert delta.abs().max() > 1e-3
        close(layer(x), layer.base_layer(x) + x @ delta.T)


def test_reference_kernel_agrees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(name)
    expected = model(X)
    monkeypatch.setenv("TAPERTUNE_KERNEL", "reference")
    close(model(X), expected)
    monkeypatch.setenv("TAPERTUNE_KERNEL", "refrence")
    with pytest.raises(tapertune.TapertuneError, match="did you mean 'reference'"):
        model(X)


def test_gradients_in_float64(name: str) -> None:
    model = adapted(name, mlp(torch.float64), target_modules=["0"])
    (layer,) = layers(model)
    tensors = {n: layer.factor("default", n).requires_grad_() for n in layer.chains["default"].names}
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    inputs = (x, *tensors.values())
    assert all(t.dtype == torch.float64 for t in inputs)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), inputs)


def test_merge_and_unmerge(name: str) -> None:
    for base, args in ((tiny_bert(), batch()), (tiny_gpt2(), {"input_ids": batch()["input_ids"]})):
        plain = base.eval()(**args).logits
        model = adapted(name, base).eval()
        expected = model(**args).logits
        assert not torch.allclose(expected, plain, atol=1e-4)
        model.merge_adapter(safe_merge=True)
        close(model(**args).logits, expected)
        model.unmerge_adapter()
        close(model(**args).logits, expected)
        with model.disable_adapter():
            close(model(**args).logits, plain)
        merged = model.merge_and_unload()
        assert not layers(merged)
        close(merged(**args).logits, expected)


def test_merging_keeps_trained_modules_without_a_weight_of_their_own(name: str) -> None:
    model = adapted(name, tiny_bert(), modules_to_save=["pooler", "classifier"]).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".modules_to_save." in key:
                parameter.add_(0.1)
    expected = model(**batch()).logits
    close(model.merge_and_unload()(**batch()).logits, expected)


def test_safe_merge_refuses_what_is_not_finite(name: str) -> None:
    model = adapted(name)
    layer = layers(model)[0]
    next(iter(layer.tensors("default").values())).data[0] = float("nan")
    before = layer.get_base_layer().weight.clone()
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(layer.get_base_layer().weight, before)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_save_and_load(name: str, tmp_path: Path, low_cpu_mem_usage: bool) -> None:
    model = adapted(name, tiny_bert(), modules_to_save=["classifier"]).eval()
    expected = model(**batch()).logits
    model.save_pretrained(tmp_path)
    config = PeftConfig.from_pretrained(tmp_path)
    assert type(config) is tapertune.host.config_class(name)
    again = PeftModel.from_pretrained(tiny_bert(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage).eval()
    assert torch.equal(again(**batch()).logits, expected)
    text = (tmp_path / "adapter_config.json").read_text()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_config.json").read_text() == text, "the same config writes the same file"


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # PEFT's, at any second adapter
def test_transformers_own_loading(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    base = tiny_bert()
    base.save_pretrained(tmp_path / "base")
    model = adapted(name, tiny_bert()).eval()
    expected = model(**batch()).logits
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(again(**batch()).logits, expected)
    fresh = tiny_bert().eval()
    plain = fresh(**batch()).logits
    fresh.add_adapter(tapertune.make_config(name, **{METHODS[name].rank: 3}))
    assert torch.equal(fresh(**batch()).logits, plain)
    fresh.load_adapter(tmp_path / "adapter", adapter_name="trained")
    fresh.set_adapter("trained")
    assert torch.equal(fresh.eval()(**batch()).logits, expected)
    fresh.set_adapter("default")
    fresh.delete_adapter("trained")
    assert torch.equal(fresh(**batch()).logits, plain)


def test_lora_form_is_exact(name: str, tmp_path: Path) -> None:
    """As a plain LoRA adapter, with PEFT's own classes, the outputs are the same."""
    model = adapted(name, tiny_bert()).eval()
    if not layers(model)[0].chains["default"].linear:
        with pytest.raises(tapertune.TapertuneError, match="no lossless LoRA form"):
            layers(model)[0].chains["default"].lora_factors(layers(model)[0].tensors("default"))
        return
    expected = model(**batch()).logits
    state = {}
    for layer in layers(model):
        down, up = layer.chains["default"].lora_factors(layer.tensors("default"))
        assert down.shape[0] <= 3
        state[f"base_model.model.{layer.module_path}.lora_A.weight"] = down.detach()
        state[f"base_model.model.{layer.module_path}.lora_B.weight"] = up.detach() * layer.scaling["default"]
    targets = list(model.peft_config["default"].target_modules)
    plain = get_peft_model(tiny_bert(), LoraConfig(r=3, lora_alpha=3, target_modules=targets)).eval()
    set_peft_model_state_dict(plain, state)
    close(plain(**batch()).logits, expected)


def test_peft_converts_to_lora(name: str) -> None:
    model = adapted(name, tiny_bert()).eval()
    peft: Any = pytest.importorskip("peft", minversion="0.19")
    config, state = peft.convert_to_lora(model, rank=3 if layers(model)[0].chains["default"].linear else 16)
    plain = get_peft_model(tiny_bert(), config).eval()
    set_peft_model_state_dict(plain, state)
    close(plain(**batch()).logits, model(**batch()).logits, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*merging into torch:UserWarning")  # the point of a test of LoRAN's own
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_bases(name: str, dtype: torch.dtype) -> None:
    base = tiny_bert().to(dtype)
    model = adapted(name, base)
    params = [p for n, p in model.named_parameters() if p.requires_grad]
    assert {p.dtype for p in params} == {torch.float32}
    out = model(**batch())
    assert out.logits.dtype == dtype
    out.loss.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in params)
    expected = model.eval()(**batch()).logits
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(**batch()).logits, expected, atol=0.1, rtol=0.1)


def test_autocast_and_checkpointing(name: str) -> None:
    model = adapted(name, tiny_bert()).train()
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint(model, reentrant=False)
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(**batch()).loss.backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and grads[0]
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad)


def test_several_adapters(name: str) -> None:
    model = adapted(name, tiny_bert()).eval()
    first = model(**batch()).logits
    torch.manual_seed(2)
    model.add_adapter("other", tapertune.make_config(name, **{METHODS[name].rank: 2}, init_weights=False))
    assert torch.equal(model(**batch()).logits, first)
    model.set_adapter("other")
    second = model.eval()(**batch()).logits
    assert not torch.allclose(first, second)
    trainable = {n.split(".")[-2] for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"other"}
    model.base_model.set_adapter(["default", "other"])
    both = model(**batch()).logits
    model.merge_adapter(adapter_names=["default", "other"])
    close(model(**batch()).logits, both)
    model.unmerge_adapter()
    model.set_adapter("default")
    model.delete_adapter("other")
    close(model(**batch()).logits, first)


def test_dropout_only_while_training(name: str) -> None:
    model = adapted(name, dropout=0.5)
    assert torch.equal(model.eval()(X), model(X))
    assert not torch.equal(model.train()(X), model(X))


@pytest.mark.filterwarnings("ignore:.*whose plan nobody runs:UserWarning")  # it freezes by hand
def test_frozen_stays_frozen(name: str, tmp_path: Path) -> None:
    """Through every toggle of PEFT's, an optimizer step, saving and loading."""
    model = adapted(name, tiny_bert())
    training = [h for h in adapter_parameters(model) if h.parameter.requires_grad]
    handle = next((h for h in training if h.matrix), training[0])
    value = handle.parameter.detach().clone()
    handle.freeze()

    def check(parameter: nn.Parameter) -> None:
        assert not parameter.requires_grad
        assert torch.equal(parameter, value)

    with model.disable_adapter():
        check(handle.parameter)
    check(handle.parameter)
    model.set_adapter("default")
    check(handle.parameter)
    model.disable_adapter_layers()
    model.enable_adapter_layers()
    check(handle.parameter)
    model.base_model.set_requires_grad("default", True)
    check(handle.parameter)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**batch()).loss.backward()
    optimizer.step()
    check(handle.parameter)
    others = [
        h for h in adapter_parameters(model) if h.name != handle.name and h.factor == handle.factor and h.kind == "ffn"
    ]
    assert all(h.parameter.requires_grad for h in others)

    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["frozen"] == {handle.module: [handle.factor]}
    again = PeftModel.from_pretrained(tiny_bert(), tmp_path, is_trainable=True)
    loaded = {h.name: h for h in adapter_parameters(again)}
    check(loaded[handle.name].parameter)
    assert all(loaded[h.name].parameter.requires_grad for h in others)


def test_configs_copy_and_pickle(name: str) -> None:
    config = tapertune.make_config(name, **{METHODS[name].rank: 2}, target_modules=["b", "a"])
    assert pickle.loads(pickle.dumps(config)) == config == copy.deepcopy(config)
    assert json.loads(json.dumps(config.to_dict()))["target_modules"] == ["a", "b"]
    assert getattr(tapertune, config.row.config_name) is type(config)
    assert config.row.summary in (type(config).__doc__ or "")


def test_layers_to_transform_and_exclude(name: str) -> None:
    model = adapted(name, tiny_bert(), layers_to_transform=[1], target_modules=["query", "intermediate.dense"])
    assert {h.layer for h in adapter_parameters(model)} == {1}
    model = adapted(name, tiny_bert(), exclude_modules=["query"])
    assert not any("query" in h.module for h in adapter_parameters(model))


def test_models_copy(name: str) -> None:
    model = adapted(name).eval()
    twin = copy.deepcopy(model)
    for layer in layers(twin):
        for tensor in layer.tensors("default").values():
            tensor.data.zero_()
    assert not torch.equal(model(X), twin(X))
