"""Stacked experts and other parameters with adapters: every method, layout and implementation of experts."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from experts import EXPERTS, gpt_oss, mixtral, qwen3_moe, tokens
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from tiny import checkpoint
from torch import Tensor, nn

import tapertune
from tapertune.adapt.actuators import take
from tapertune.errors import TapertuneError
from tapertune.host import adapter_parameters
from tapertune.host.held_matrix import HeldMatrixLayer
from tapertune.host.parameter_layer import ParameterLayer
from tapertune.methods import METHODS

MODELS = {"mixtral": mixtral, "gpt_oss": gpt_oss}


def adapted(name: str, base: nn.Module, parameters: list[str] | None = None, **values: Any) -> PeftModel:
    """A model whose experts have a random adapter of that method."""
    values = {METHODS[name].rank: 3, "init_weights": False, "target_modules": [], **values}
    torch.manual_seed(1)
    return get_peft_model(base, tapertune.make_config(name, target_parameters=parameters or EXPERTS, **values))


def matrices(model: nn.Module) -> list[HeldMatrixLayer]:
    return [module for module in model.modules() if isinstance(module, HeldMatrixLayer)]


def passed(model: Any, implementation: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradients, as computed by one of transformers' implementations."""
    model.config._experts_implementation = implementation
    model.zero_grad()
    out = model(**tokens())
    out.loss.backward()
    assert type(out.logits) is Tensor
    return out.logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", ["mixtral", pytest.param("gpt_oss", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", METHODS)
def test_every_implementation_computes_base_plus_update(name: str, kind: str) -> None:
    """A dense model with ``W + update`` in the weights is the reference."""
    model = adapted(name, MODELS[kind]()).eval()
    logits, grads = passed(model, "grouped_mm")
    assert grads and all("tapertune" in key for key in grads)
    dense: Any = MODELS[kind]().eval()
    for layer in matrices(model):
        path, _, index = layer.module_path.rpartition(".")
        delta = layer.get_delta_weight("default").detach()
        assert delta.abs().max() > 1e-4
        dense.get_parameter(path).data[int(index)] += delta.mT if kind == "gpt_oss" else delta
    close(dense(**tokens()).logits, logits)
    for other in ("eager", "batched_mm"):
        again, others = passed(model, other)
        close(again, logits)
        close(others, grads)


@pytest.mark.parametrize("name", METHODS)
def test_saved_loaded_merged_and_switched_off(name: str, tmp_path: Path) -> None:
    base = mixtral().eval()
    plain = base(**tokens()).logits
    model = adapted(name, base).eval()
    expected = model(**tokens()).logits
    assert not torch.allclose(expected, plain, atol=1e-4)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(mixtral(), tmp_path).eval()
    assert torch.equal(again(**tokens()).logits, expected)
    frugal = PeftModel.from_pretrained(mixtral(), tmp_path, low_cpu_mem_usage=True).eval()
    assert torch.equal(frugal(**tokens()).logits, expected)
    assert torch.equal(copy.deepcopy(again)(**tokens()).logits, expected)
    with model.disable_adapter():
        assert torch.equal(model(**tokens()).logits, plain)
    model.merge_adapter(safe_merge=True)
    close(model(**tokens()).logits, expected)
    model.unmerge_adapter()
    close(model(**tokens()).logits, expected)
    merged = model.merge_and_unload()
    assert not any(isinstance(module, ParameterLayer | HeldMatrixLayer) for module in merged.modules())
    assert merged.state_dict().keys() == mixtral().state_dict().keys()
    close(merged(**tokens()).logits, expected)
    assert torch.equal(again.unload()(**tokens()).logits, plain)


@pytest.mark.filterwarnings("ignore:.*whose plan nobody runs:UserWarning")
@pytest.mark.parametrize("name", METHODS)
def test_experts_without_rows_have_no_gradients(name: str) -> None:
    """And so stay where they are, under AdamW's momentum and decay too."""
    model: Any = adapted(name, mixtral())
    experts = next(module for module in model.modules() if isinstance(module, ParameterLayer))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    x = torch.randn(6, 16)

    def step(index: int) -> None:
        optimizer.zero_grad()
        which = torch.full((6, 1), index)
        experts(x, which, torch.ones(6, 1)).square().sum().backward()
        optimizer.step()

    step(1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    step(2)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all("_proj.2." in key for key in moved)
    assert experts.without_rows() == [0, 3]


@pytest.mark.parametrize("kind", MODELS)
def test_pefts_lora_at_equal_weights(kind: str) -> None:
    model = adapted("lora", MODELS[kind](), lora_alpha=6).eval()
    logits, grads = passed(model, "grouped_mm")
    torch.manual_seed(1)
    plain: Any = get_peft_model(
        MODELS[kind](), LoraConfig(r=3, lora_alpha=6, target_modules=[], target_parameters=EXPERTS)
    ).eval()
    state = {}
    for parameter, place in (("gate_up_proj", "base_layer."), ("down_proj", "")):
        layers = [layer for layer in matrices(model) if f".{parameter}." in layer.module_path]
        a, b = ([layer.factor("default", factor).detach() for layer in layers] for factor in "AB")
        prefix = f"base_model.model.model.layers.0.mlp.experts.{place}"
        state[f"{prefix}lora_A.weight"] = torch.cat(a)
        state[f"{prefix}lora_B.weight"] = torch.stack(b, 2).flatten(1)
    set_peft_model_state_dict(plain, state)
    theirs, their_grads = passed(plain, "grouped_mm")
    close(theirs, logits)
    key = "base_model.model.model.layers.0.mlp.experts.{}lora_A.default.weight"
    own = "base_model.model.model.layers.0.mlp.experts.{}.{}.tapertune_lora_A.default.weight"
    for parameter, place in (("gate_up_proj", "base_layer."), ("down_proj", "")):
        for i, part in enumerate(their_grads[key.format(place)].split(3)):
            close(grads.get(own.format(parameter, i), torch.zeros_like(part)), part)


@pytest.mark.parametrize("name", ["lora", "elora", "loran"])
def test_a_single_matrix_such_as_a_routers(name: str) -> None:
    base = mixtral().eval()
    plain = base(**tokens()).logits
    model = adapted(name, base, ["mlp.gate.weight"]).eval()
    assert [layer.module_path for layer in matrices(model)] == ["model.layers.0.mlp.gate.weight"]
    expected, grads = passed(model, "grouped_mm")
    assert grads and not torch.allclose(plain, expected)
    close(model.merge_and_unload()(**tokens()).logits, expected)


@pytest.mark.parametrize("targets", [None, "all-linear"])
@pytest.mark.parametrize("base", [mixtral, qwen3_moe, gpt_oss])
def test_experts_are_adapted_by_default(base: Any, targets: str | None) -> None:
    model: Any = get_peft_model(base(), tapertune.make_config("lora", target_modules=targets))
    assert set(model.peft_config["default"].target_parameters) == set(EXPERTS)
    modules = {handle.module for handle in adapter_parameters(model)}
    assert "model.layers.0.mlp.experts.down_proj.3" in modules and "model.layers.0.self_attn.q_proj" in modules
    assert not any("gate.weight" in module or "router" in module for module in modules)
    without = get_peft_model(base(), tapertune.make_config("lora", exclude_modules=["experts"], target_modules=targets))
    assert not matrices(without)


def test_what_is_adapted_can_be_limited() -> None:
    config = tapertune.make_config("lora", layers_to_transform=[1])
    model = get_peft_model(mixtral(num_hidden_layers=2), config)
    assert {handle.layer for handle in adapter_parameters(model)} == {1}
    assert not matrices(get_peft_model(mixtral(), tapertune.make_config("lora", target_parameters=[])))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["experts.down_prj"], "no parameter is called 'experts.down_prj': did you mean 'experts.down_proj'\\?"),
        (["experts.gate_proj"], "did you mean 'experts.gate_up_proj'"),
        (["norm.weight"], "target_parameters is 'norm.weight'; it must be a matrix .* has 1 axes"),
        ("experts.down_proj", "target_parameters is 'experts.down_proj'; it must be a list"),
        ([3], "it must be a list of parameters' names"),
    ],
)
def test_names_that_cannot_be_adapted(names: Any, message: str) -> None:
    with pytest.raises(TapertuneError, match=message) as error:
        adapted("aflora", mixtral(), names)
    assert "\n" not in str(error.value)


def test_a_layer_of_its_own_adapter_is_refused_as_parameter() -> None:
    with pytest.raises(TapertuneError, match="a module that is not adapted itself"):
        adapted("lora", mixtral(), ["q_proj.weight"], target_modules=["q_proj"])


def test_several_adapters_and_rows_of_their_own() -> None:
    model = adapted("lora", mixtral()).eval()
    first = model(**tokens()).logits
    torch.manual_seed(2)
    config = tapertune.make_config("lora", r=2, target_modules=[], target_parameters=EXPERTS, init_weights=False)
    model.add_adapter("other", config)
    assert torch.equal(model(**tokens()).logits, first)
    model.set_adapter("other")
    second = model.eval()(**tokens()).logits
    assert not torch.allclose(first, second)
    model.base_model.set_adapter(["default", "other"])
    both = model(**tokens()).logits
    model.merge_adapter(adapter_names=["default", "other"])
    close(model(**tokens()).logits, both)
    model.unmerge_adapter()
    with pytest.raises(TapertuneError, match="adapter_names: rows cannot have adapters of their own where parameters"):
        model(input_ids=tokens()["input_ids"], adapter_names=["default", "other"])
    model.set_adapter("default")
    model.delete_adapter("other")
    close(model(**tokens()).logits, first)


def test_dropout_is_of_each_experts_input() -> None:
    model = adapted("lora", mixtral(), dropout=0.5)
    data = tokens()
    assert torch.equal(model.eval()(**data).logits, model(**data).logits)
    for implementation in ("eager", "grouped_mm"):
        model.config._experts_implementation = implementation
        assert not torch.equal(model.train()(**data).logits, model(**data).logits)
    model.config._experts_implementation = "batched_mm"
    with pytest.raises(TapertuneError, match="set dropout=0, or the model's experts_implementation to 'grouped_mm'"):
        model(**data)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_half_precision_autocast_and_checkpointing(name: str) -> None:
    data = tokens()
    half = adapted(name, mixtral().to(torch.bfloat16))
    assert {p.dtype for n, p in half.named_parameters() if p.requires_grad} == {torch.float32}
    out = half(**data)
    assert out.logits.dtype == torch.bfloat16
    out.loss.backward()
    model: Any = adapted(name, mixtral()).train()
    grads = []
    for _ in range(2):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(**data).loss.backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        checkpoint(model, reentrant=False)
    assert grads[0].keys() == grads[1].keys()
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad)


def test_models_pickle() -> None:
    model = adapted("sora", mixtral()).eval()
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(**tokens()).logits, model(**tokens()).logits)


def test_ranks_that_differ() -> None:
    """Experts that pruning has left with ranks of their own, one with none, compute alike everywhere."""
    model = adapted("adalora", mixtral()).eval()
    for i, layer in enumerate(matrices(model)):
        keep = torch.arange(i % 4)
        for factor, axis in (("A", 0), ("E", 0), ("B", 1)):
            parameter = layer.factor("default", factor)
            take(parameter, axis, keep)
    expected, grads = passed(model, "grouped_mm")
    again, others = passed(model, "eager")
    close(again, expected)
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    for key in grads.keys() & others.keys():
        close(others[key], grads[key])
    close(model.merge_and_unload()(**tokens()).logits, expected)
