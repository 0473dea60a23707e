"""PEFT's own helpers on our models: each works, or says in one line why not."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel, functional, get_peft_model, helpers
from peft.tuners.tuners_utils import inspect_matched_modules
from peft.utils import hotswap
from tiny import batch, mlp, tiny_bert

import tapertune
from tapertune.methods import METHODS

pytestmark = pytest.mark.parametrize("method", METHODS)


def config(method: str, **values: Any) -> Any:
    return tapertune.make_config(method, target_modules=["query", "value"], init_weights=False, **values)


def adapted(method: str, *others: str) -> PeftModel:
    model = get_peft_model(tiny_bert(), config(method)).eval()
    for name in others:
        model.add_adapter(name, config(method))
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch()).logits


def refused(call: Callable[[], Any], message: str, kind: type[Exception] = ValueError) -> None:
    with pytest.raises(kind, match=message) as error:
        call()
    assert "\n" not in str(error.value).strip()


def test_input_dtype_casting_is_switched_off(method: str) -> None:
    model = get_peft_model(mlp(), tapertune.make_config(method, target_modules=["0", "2"], init_weights=False))
    x = torch.randn(2, 6)
    layers = [module for module in model.modules() if hasattr(module, "cast_input_dtype_enabled")]
    expected = model(x)
    with helpers.disable_input_dtype_casting(model):
        assert not any(layer.cast_input_dtype_enabled for layer in layers)
        assert torch.equal(model(x), expected)
    assert all(layer.cast_input_dtype_enabled for layer in layers) and len(layers) == 2
    with helpers.disable_input_dtype_casting(model, active=False):
        assert torch.equal(model(x), expected)


def test_signatures_and_checks(method: str, tmp_path: Path) -> None:
    model = adapted(method)
    expected = logits(model)
    helpers.update_signature(model, "forward")
    assert torch.equal(logits(model), expected)
    model.save_pretrained(tmp_path)
    assert helpers.check_if_peft_model(str(tmp_path))
    model.create_or_update_model_card(str(tmp_path))
    assert "library_name: peft" in (tmp_path / "README.md").read_text()


def test_status(method: str) -> None:
    model = adapted(method, "other")
    rows, status = model.get_layer_status(), model.get_model_status()
    assert len(rows) == status.num_adapter_layers == 4
    assert all(row.active_adapters == ["default"] and row.enabled for row in rows)
    assert status.available_adapters == ["default", "other"] and status.merged_adapters == []
    assert status.trainable_params == model.get_nb_trainable_parameters()[0]
    assert peft.get_layer_status(model) == rows and peft.get_model_status(model) == status
    assert len(inspect_matched_modules(model.base_model)["matched"]) == 4
    model.merge_adapter()
    assert model.get_model_status().merged_adapters == ["default"]


def test_adapters_are_set_and_deleted(method: str) -> None:
    model = adapted(method, "b")
    model.base_model.set_adapter(["default", "b"])
    both = logits(model)
    model.set_adapter("b")
    alone = logits(model)
    assert not torch.allclose(both, alone)
    model.delete_adapter("default")
    assert torch.equal(logits(model), alone) and list(model.peft_config) == ["b"]
    model.set_requires_grad("b", False)
    assert model.get_nb_trainable_parameters()[0] == 0
    model.set_requires_grad(["b"])
    assert model.get_nb_trainable_parameters()[0] > 0
    refused(lambda: model.delete_adapter("c"), "Adapter c does not exist")


def test_merging_and_unloading(method: str) -> None:
    model = adapted(method)
    expected, base = logits(model), logits(tiny_bert().eval())
    with model.disable_adapter():
        assert torch.allclose(logits(model), base, atol=1e-6)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(copy.deepcopy(model).unload()), base, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, atol=1e-4, rtol=1e-4)


def test_functional(method: str) -> None:
    model = functional.inject_adapter_in_model(config(method), tiny_bert().eval(), "a")
    expected = logits(model)
    state = functional.get_peft_model_state_dict(model, adapter_name="a")
    other = functional.inject_adapter_in_model(config(method), tiny_bert().eval(), "a")
    functional.set_peft_model_state_dict(other, state, adapter_name="a")
    functional.cast_adapter_dtype(other, "a")
    functional.set_adapter(other, "a")
    functional.set_requires_grad(other, "a", False)
    assert not any(p.requires_grad for n, p in other.named_parameters() if "tapertune" in n)
    assert torch.equal(logits(other), expected)
    functional.delete_adapter(other, "a", prefix=config(method).row.prefix)
    torch.testing.assert_close(logits(other), logits(tiny_bert().eval()))


def test_base_weights_move(method: str) -> None:
    model = adapted(method)
    other = get_peft_model(tiny_bert(), config(method)).eval()
    peft.set_base_model_state_dict(other, peft.get_base_model_state_dict(model))
    with model.disable_adapter(), other.disable_adapter():
        assert torch.equal(logits(model), logits(other))


def test_preparation_for_training(method: str) -> None:
    base = peft.prepare_model_for_kbit_training(tiny_bert(), use_gradient_checkpointing=False)
    model = get_peft_model(base, config(method))
    peft.cast_mixed_precision_params(model, torch.bfloat16)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for n, p in model.named_parameters() if "base_layer" in n} == {torch.bfloat16}


def test_copies_and_pickles(method: str) -> None:
    model = adapted(method)
    expected, file = logits(model), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        torch.testing.assert_close(logits(other), expected)
        assert other.peft_config["default"].to_dict() == model.peft_config["default"].to_dict()


def test_loading_beside(method: str, tmp_path: Path) -> None:
    model = adapted(method)
    model.save_pretrained(tmp_path)
    model.load_adapter(tmp_path, "b", is_trainable=True, low_cpu_mem_usage=True)
    expected = logits(model)
    model.set_adapter("b")
    torch.testing.assert_close(logits(model), expected)
    inside = tiny_bert().eval()
    inside.load_adapter(str(tmp_path))
    torch.testing.assert_close(logits(inside), expected)
    assert inside.active_adapters() == ["default"]
    inside.disable_adapters()
    torch.testing.assert_close(logits(inside), logits(tiny_bert().eval()))
    inside.enable_adapters()
    inside.delete_adapter("default")
    torch.testing.assert_close(logits(inside), logits(tiny_bert().eval()))


def test_conversion_to_lora(method: str, tmp_path: Path) -> None:
    model = adapted(method)
    assert model.supports_lora_conversion()
    peft.save_as_lora(tmp_path, model, rank=16)  # the width, and so without loss
    converted = PeftModel.from_pretrained(tiny_bert(), tmp_path).eval()
    assert converted.peft_config["default"].peft_type == "LORA"
    torch.testing.assert_close(logits(converted), logits(model), atol=1e-4, rtol=1e-4)


REFUSALS: dict[str, tuple[Callable[[PeftModel, str], Any], str]] = {
    "add_weighted_adapter": (
        lambda model, folder: model.add_weighted_adapter(["default", "b"], [0.5, 0.5], "c", combination_type="linear"),
        "add_weighted_adapter adds adapters of PEFT's LoRA, not of",
    ),
    "update_and_allocate": (
        lambda model, folder: model.base_model.update_and_allocate(3),
        "is PEFT's AdaLoRA's: give Trainer a tapertune.TapertuneCallback",
    ),
    "rescale_adapter_scale": (
        lambda model, folder: helpers.rescale_adapter_scale(model, 0.5).__enter__(),
        "scaling is only supported for models with `LoraLayer`s",
    ),
    "hotswap_adapter": (
        lambda model, folder: hotswap.hotswap_adapter(model, folder, "default"),
        "Hotswapping only supports LORA but",
    ),
    "prepare_model_for_compiled_hotswap": (
        lambda model, folder: hotswap.prepare_model_for_compiled_hotswap(model, target_rank=16),
        "No adapter layers found on the model",
    ),
    "mixed models": (
        lambda model, folder: get_peft_model(tiny_bert(), copy.deepcopy(model.peft_config["default"]), mixed=True),
        "is not compatible with the `PeftMixedModel`",
    ),
    "initialize_lora_eva_weights": (
        lambda model, folder: peft.initialize_lora_eva_weights(model, dataloader=[batch()]),
        "can only be used with `init_lora_weights='eva'`",
    ),
    "preprocess_loraga": (
        lambda model, folder: peft.preprocess_loraga(tiny_bert(), model.peft_config["default"], lambda: None),
        "If you want to use LoRA-GA",
    ),
    "replace_lora_weights_loftq": (
        lambda model, folder: peft.replace_lora_weights_loftq(model),
        "bitsandbytes must be installed and the model must be quantized|No lora layer found|LoftQ",
    ),
    "path_initial_model_for_weight_conversion": (
        lambda model, folder: model.save_pretrained(folder + "/x", path_initial_model_for_weight_conversion=folder),
        "is not supported for",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_for_others_says_so(method: str, name: str, tmp_path: Path) -> None:
    model = adapted(method, "b")
    expected = logits(model)
    model.save_pretrained(tmp_path)
    call, message = REFUSALS[name]
    refused(lambda: call(model, str(tmp_path)), message)
    assert torch.equal(logits(model), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert list(model.peft_config) == ["default", "b"]
