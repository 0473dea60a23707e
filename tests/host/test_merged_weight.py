"""A frozen adapter and its base as one weight: the same numbers, and nobody who looks at the layer can tell."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merging import asked, made, merges
from peft import PeftModel, get_peft_model
from tiny import batch, tiny_bert, tiny_gpt2
from torch import Tensor, nn

import tapertune
from tapertune.host import ChainLayer, adapter_parameters
from tapertune.host.merged_weight import MergedWeight, Request

EXTRA = {"aflora": {"projection_scope": "all"}}


def make(method: str = "lora", base: nn.Module | None = None, **values: Any) -> Any:
    """A model with an adapter that does something."""
    base = tiny_bert() if base is None else base
    torch.manual_seed(1)
    values = {"init_weights": False, "modules_to_save": ["classifier"], **EXTRA.get(method, {}), **values}
    return get_peft_model(base, tapertune.make_config(method, **values)).double().eval()  # type: ignore[arg-type]


def layers(model: nn.Module, number: int | None = None) -> list[ChainLayer]:
    found = [m for m in model.modules() if isinstance(m, ChainLayer)]
    return [m for m in found if number is None or f".{number}." in m.module_path]


def freeze(model: nn.Module, number: int | None = 0) -> list[bool]:
    """Freezes and folds a layer's modules, or all."""
    handles = [h for h in adapter_parameters(model) if number is None or h.layer == number]
    for handle in handles:
        handle.freeze()
    return [handle.merge_frozen() for handle in handles]


def logits(model: Any) -> Tensor:
    return model(**batch()).logits


@pytest.mark.parametrize("method", [m for m in tapertune.METHODS if m != "none"])
def test_the_same_numbers(method: str) -> None:
    model = make(method)
    model.enable_input_require_grads()  # so that gradients pass the frozen layer
    expected = model(**batch())
    expected.loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if ".1." in n and p.grad is not None}
    assert gradients
    model.zero_grad()
    assert all(freeze(model))
    found = model(**batch())
    found.loss.backward()
    assert all(made(layer) for layer in layers(model, 0)) and not any(made(layer) for layer in layers(model, 1))
    assert torch.allclose(found.logits, expected.logits, rtol=0, atol=1e-10)
    for name, gradient in gradients.items():
        assert torch.allclose(model.get_parameter(name).grad, gradient, rtol=0, atol=1e-10)
    assert all(h.parameter.grad is None for h in adapter_parameters(model) if h.layer == 0)


def test_base_and_state_are_as_before() -> None:
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze(model)
    logits(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert {n for n, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()} >= set(after)


def test_saved_adapter_holds_factors(tmp_path: Path) -> None:
    model = make()
    plain = logits(model)
    freeze(model)
    logits(model)
    model.save_pretrained(tmp_path)
    again: Any = PeftModel.from_pretrained(tiny_bert().double(), str(tmp_path)).double().eval()
    assert torch.equal(logits(again), plain)
    frozen = {h.name for h in adapter_parameters(again) if h.name.endswith(("A", "B")) and h.layer == 0}
    assert {f"{module}.{f}" for module, names in again.peft_config["default"].frozen.items() for f in names} == frozen


def test_copies_stand_alone() -> None:
    model = make()
    freeze(model)
    expected = logits(model)
    other = copy.deepcopy(model)
    assert not any(made(layer) for layer in layers(other))
    with torch.no_grad():
        for layer in layers(model, 0):
            layer.base_layer.weight.zero_()  # type: ignore[union-attr, operator]
    assert torch.equal(logits(other), expected), "bit for bit: the sum is made of the same parts"
    assert all(made(layer) for layer in layers(other, 0))
    again = pickle.loads(pickle.dumps(layers(other, 0)[0].merged_weight))
    assert isinstance(again, MergedWeight) and again.request == Request(frozen="default") and not again.exists


def merge_and_unmerge(model: Any) -> Tensor:
    model.merge_adapter()
    merged = logits(model)
    model.unmerge_adapter()
    return merged


def unload(model: Any) -> Tensor:
    return copy.deepcopy(model).merge_and_unload()(**batch()).logits


def enabled_again(model: Any) -> Tensor:
    with model.disable_adapter():
        logits(model)
    return logits(model)


def moved(model: Any) -> Tensor:
    model.float()
    logits(model)
    model.double()
    return logits(model)


@pytest.mark.parametrize("act", [merge_and_unmerge, unload, enabled_again, moved, logits])
def test_operations_are_those_of_the_unfolded_model(act: Callable[[Any], Tensor]) -> None:
    plain, model = make(), make()
    freeze(model)
    logits(model)
    tolerance = 1e-6 if act is moved else 1e-12
    assert torch.allclose(act(model), act(plain), rtol=0, atol=tolerance)
    assert torch.allclose(logits(model), logits(plain), rtol=0, atol=tolerance), "and afterwards"
    for mine, other in zip(layers(model), layers(plain), strict=True):
        delta, expected = mine.get_delta_weight("default"), other.get_delta_weight("default")
        assert torch.allclose(delta, expected, rtol=0, atol=tolerance)
    with plain.disable_adapter(), model.disable_adapter():
        assert torch.equal(logits(model), logits(plain))


def test_other_adapters() -> None:
    plain, model = make(), make()
    freeze(model)
    for each in (plain, model):
        torch.manual_seed(2)
        each.add_adapter("second", tapertune.make_config("lora", r=4, init_weights=False))
        each.double()
        logits(each)
    for name in ("second", "default"):
        for each in (plain, model):
            each.set_adapter(name)
        assert torch.allclose(logits(model), logits(plain), rtol=0, atol=1e-12)
    assert all(merges(layer, torch.zeros(1, dtype=torch.float64)) for layer in layers(model, 0))
    for each in (plain, model):
        each.base_model.set_adapter(["default", "second"])
    assert torch.equal(logits(model), logits(plain)), "several at once are not folded"
    model.delete_adapter("default")
    plain.delete_adapter("default")
    assert torch.equal(logits(model), logits(plain))


def in_place(layer: ChainLayer) -> None:
    with torch.no_grad():
        layer.factor("default", "A").mul_(2)


def new_data(layer: ChainLayer) -> None:
    parameter = layer.factor("default", "B")
    parameter.data = parameter.data * 2


def new_base(layer: ChainLayer) -> None:
    layer.set_base_weight(layer.get_base_weight() * 2)


def loaded(layer: ChainLayer) -> None:
    layer.load_state_dict({name: value * 2 for name, value in layer.state_dict().items()})


@pytest.mark.parametrize("change", [in_place, new_data, new_base, loaded])
def test_changed_parts_are_seen(change: Callable[[ChainLayer], None]) -> None:
    model = make()
    freeze(model)
    before = logits(model)
    for layer in layers(model, 0):
        change(layer)
    changed = logits(model)
    assert not torch.allclose(changed, before)
    for layer in layers(model):
        layer.merged_weight.ask(frozen=None)
    assert torch.allclose(changed, logits(model), rtol=0, atol=1e-12)


def test_the_sum_is_made_once_and_goes() -> None:
    model = make()
    freeze(model)
    logits(model)
    sums = [layer.merged_weight._weight for layer in layers(model, 0)]
    assert None not in sums
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for seed in range(3):
        model.train()(**batch(seed=seed)).loss.backward()
        optimizer.step()
    model.set_adapter("default")
    logits(model.eval())
    assert all(layer.merged_weight._weight is kept for layer, kept in zip(layers(model, 0), sums, strict=True))
    for handle in adapter_parameters(model):
        handle.unmerge_frozen()
    assert not any(asked(layer) for layer in layers(model))


def test_evaluation_in_inference_mode_comes_first() -> None:
    model = make()
    model.enable_input_require_grads()
    freeze(model, None)
    with torch.inference_mode():
        logits(model)
    model(**batch()).loss.backward()  # inference tensors could not be saved for this


def test_some_of_three_that_read_one_input() -> None:
    """Query is folded, key and value are not: they go on being computed together."""
    plain, model = make(), make()
    query = next(layer for layer in layers(model, 0) if layer.module_path.endswith("query"))
    query.freeze_factors("default", ["A", "B"])
    assert query.merge_frozen("default")
    for _ in range(2):
        assert torch.allclose(logits(model), logits(plain), rtol=0, atol=1e-12)
    assert made(query) and not query.shared_input.apart


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_not_folded(dtype: torch.dtype) -> None:
    model = make().to(dtype)
    assert not any(freeze(model)) and not any(asked(layer) for layer in layers(model))
    model = make().float()
    freeze(model)
    logits(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not any(merges(layer, torch.zeros(1)) for layer in layers(model))
        assert torch.isfinite(logits(model)).all()
    assert all(merges(layer, torch.zeros(1)) for layer in layers(model, 0))


def test_what_is_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(freeze(make(dropout=0.5))), "dropout would be lost"
    assert not any(freeze(make(base=tiny_gpt2(), modules_to_save=None))), "Conv1D"
    model = make()
    assert not any(layer.merge_frozen("default") for layer in layers(model)), "it trains"
    freeze(model)
    layer, x = layers(model, 0)[0], torch.zeros(1, dtype=torch.float64)
    assert merges(layer, x) and not merges(layer, x.float())
    hook = layer.base_layer.register_forward_hook(lambda *_: None)
    assert not merges(layer, x)
    hook.remove()
    layer.factor("default", "A").requires_grad_(True)
    assert not merges(layer, x)
    layer.factor("default", "A").requires_grad_(False)
    layer.base_layer.weight.requires_grad_(True)  # type: ignore[union-attr]
    assert not merges(layer, x)
    layer.base_layer.weight.requires_grad_(False)  # type: ignore[union-attr]
    monkeypatch.setenv("TAPERTUNE_KERNEL", "reference")
    assert not merges(layer, x)
    monkeypatch.setenv("TAPERTUNE_KERNEL", "lowrank")
    assert merges(layer, x)


def test_compiled_models_are_computed_as_ever() -> None:
    model = make()
    freeze(model)
    layer, x = layers(model, 0)[0], torch.randn(3, 16, dtype=torch.float64)
    assert torch.allclose(torch.compile(layer, backend="eager")(x), layer(x), rtol=0, atol=1e-12)


def test_a_second_adapter_takes_over() -> None:
    model = make()
    freeze(model)
    model.add_adapter("second", tapertune.make_config("lora", init_weights=False))
    model.double()
    for handle in adapter_parameters(model, "second"):
        handle.freeze()
        assert handle.merge_frozen()
    assert asked(layers(model, 0)[0]) == "second"
