"""Dense updates that are kept between passes without gradients."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tasks.tiny_text import llama
from torch import nn

import tapertune
from tapertune.host import ChainLayer, merged_weight, updates_kept

TARGETS = ["q_proj", "v_proj", "down_proj"]
IDS = torch.tensor([[2, 6, 7, 8]])


def model_of(method: str = "loran", dtype: torch.dtype = torch.float32) -> Any:
    base = llama().to(dtype)
    torch.manual_seed(1)
    return get_peft_model(base, tapertune.make_config(method, target_modules=TARGETS, init_weights=False)).eval()


def layers(model: nn.Module) -> list[ChainLayer]:
    return [m for m in model.modules() if isinstance(m, ChainLayer)]


def kept(layer: ChainLayer) -> bool:
    """Whether the layer has been asked to keep its update."""
    return layer.merged_weight.request.without_gradients


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What updates are made, by layer's width."""
    calls: list[str] = []
    real = merged_weight.merged_weight

    def counted(update: Any, weight: torch.Tensor, tensors: Any, scaling: float) -> torch.Tensor:
        calls.append(str(tuple(weight.shape)))
        return real(update, weight, tensors, scaling)

    monkeypatch.setattr(merged_weight, "merged_weight", counted)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_text_is_the_same_and_updates_are_made_once(dtype: torch.dtype, made: list[str]) -> None:
    model = model_of(dtype=dtype)
    write = {"input_ids": IDS, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    expected = model.generate(**write)
    with updates_kept(model):
        assert torch.equal(model.generate(**write), expected)
        assert torch.equal(model.generate(**write), expected)
    assert len(made) == len(layers(model)) == 6
    assert not any(kept(layer) for layer in layers(model))


def test_under_autocast(made: list[str]) -> None:
    model = model_of()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(IDS).logits
        with updates_kept(model):
            for _ in range(2):
                assert torch.equal(model(IDS).logits, expected)
    assert len(made) == 6


def test_what_changes_is_made_again(made: list[str]) -> None:
    model = model_of()
    first = layers(model)[0]
    with torch.no_grad(), updates_kept(model):
        before = model(IDS).logits
        first.factor("default", "B").add_(1.0)
        after = model(IDS).logits
        assert len(made) == 7 and not torch.allclose(before, after)
        first.scaling["default"] *= 2
        first.get_base_layer().weight.mul_(0.5)
        changed = model(IDS).logits
        assert len(made) == 8
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, changed)


def test_gradients_are_taken_as_ever(made: list[str]) -> None:
    model = model_of()
    with updates_kept(model):
        model(IDS, labels=IDS).loss.backward()
    assert not made and all(layer.factor("default", "A").grad is not None for layer in layers(model))


def test_without_room_nothing_is_kept(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    needed = sum(layer.get_base_layer().weight.numel() * 4 for layer in layers(model))
    for free, count in ((2 * needed - 1, 0), (2 * needed, 6)):
        monkeypatch.setattr(merged_weight, "_free", lambda device, free=free: free)
        with torch.no_grad(), updates_kept(model):
            model(IDS)
        assert len(made) == count
    monkeypatch.undo()
    assert merged_weight._free(torch.device("cpu")) > needed and merged_weight._free(torch.device("meta")) == 0


def test_one_inside_another_and_copies(made: list[str]) -> None:
    model = model_of()
    with torch.no_grad(), updates_kept(model):
        with updates_kept(model):
            expected = model(IDS).logits
        assert torch.equal(copy.deepcopy(model)(IDS).logits, expected) and len(made) == 12, "a copy makes its own"
        model(IDS)
        state = layers(model)[0].merged_weight
        assert state.exists and not pickle.loads(pickle.dumps(state)).exists
    assert len(made) == 12


def test_narrow_updates_are_never_made() -> None:
    model = model_of("lora")
    with updates_kept(model):
        assert not any(kept(layer) for layer in layers(model))
