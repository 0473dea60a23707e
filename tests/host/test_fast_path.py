"""Adapters in torch's own transformer layers count in evaluation too, and leave no trace when they go."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from peft import get_peft_model
from torch import nn

import tapertune
from tapertune.methods import METHODS

TARGETS = ["linear1", "linear2"]


def encoder(nested: bool = False, layers: int = 2) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=nested)


def adapted(method: str, base: nn.Module, **values: object) -> nn.Module:
    return get_peft_model(base, tapertune.make_config(method, target_modules=TARGETS, init_weights=False, **values))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 5, 16)


@pytest.mark.parametrize("method", METHODS)
def test_training_and_evaluation_compute_the_same(method: str, x: torch.Tensor) -> None:
    model = adapted(method, encoder())
    with torch.no_grad():
        trained, evaluated = model.train()(x), model.eval()(x)
        with model.disable_adapter():
            base = model(x)
    torch.testing.assert_close(evaluated, trained, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(base, encoder().eval()(x), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(base, evaluated, atol=1e-2)


@pytest.mark.parametrize("layers", [None, [1]])
def test_padded_batches_that_torch_would_nest(x: torch.Tensor, layers: list[int] | None) -> None:
    base = encoder(nested=True)
    model = adapted("lora", base, layers_to_transform=layers, layers_pattern=layers and "layers")
    mask = torch.tensor([[False] * 5, [False, False, False, True, True]])
    with torch.no_grad():
        trained = model.train()(x, src_key_padding_mask=mask)
        evaluated = model.eval()(x, src_key_padding_mask=mask)
    torch.testing.assert_close(evaluated, trained, atol=1e-5, rtol=1e-4)
    assert model.unload().use_nested_tensor


def test_copies_and_pickles_keep_off_it_too_and_let_go(x: torch.Tensor) -> None:
    model = adapted("aflora", encoder()).eval()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]
    with torch.no_grad():
        for other in copies:
            torch.testing.assert_close(other(x), model(x))
            assert hooks(other) == 2
            assert hooks(other.unload()) == 0


@pytest.mark.parametrize("way", ["unload", "merge", "delete"])
def test_it_is_taken_again_when_the_last_adapter_has_gone(way: str, x: torch.Tensor) -> None:
    model = adapted("lora", encoder()).eval()
    model.add_adapter("other", tapertune.make_config("lora", target_modules=["linear1"], init_weights=False))
    assert hooks(model) == 2
    with torch.no_grad():
        before = model(x)
        if way == "delete":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PEFT's, about the active adapter
                model.delete_adapter("default")
                assert hooks(model) == 2
                model.delete_adapter("other")
            rest, expected = model.base_model.model, encoder().eval()(x)
        else:
            rest = model.unload() if way == "unload" else model.merge_and_unload()
            expected = encoder().eval()(x) if way == "unload" else before
        assert hooks(rest) == 0
        torch.testing.assert_close(rest(x), expected, atol=1e-5, rtol=1e-4)


def test_hooks_of_others_stay(x: torch.Tensor) -> None:
    base = encoder()
    calls: list[int] = []
    base.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    rest = adapted("lora", base).unload()
    rest.eval()(x)
    assert calls == [1]
