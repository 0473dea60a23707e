"""An adapter is found wherever in a model it is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import batch, mlp, tiny_bert
from torch import nn

import tapertune
from tapertune.errors import TapertuneError
from tapertune.host import adapted_parts, adapter_parameters, find_config, updates_kept
from tapertune.interop.lora import export_model_lora
from tapertune.methods import METHODS


class Headed(nn.Module):
    """Somebody's own module around an encoder, with a head of its own."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(16, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        logits = self.head(self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0][:, 0])
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Towers(nn.Module):
    def __init__(self, query: nn.Module, document: nn.Module) -> None:
        super().__init__()
        self.query, self.document = query, document

    def forward(self, **inputs: Any) -> torch.Tensor:
        return (self.query(**inputs)[1] * self.document(**inputs)[1]).sum()


def encoder(method: str = "aflora", **values: Any) -> nn.Module:
    return get_peft_model(tiny_bert().bert, tapertune.make_config(method, **values))


def nested(method: str) -> nn.Module:
    """As deep as a SentenceTransformer: modules in a sequence, the first of which holds the model, adapted in place."""
    model = tiny_bert().bert
    model.add_adapter(tapertune.make_config(method))
    return nn.Sequential(nn.ModuleDict({"auto_model": model}), nn.Identity())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrap", [Headed, lambda model: nn.ModuleDict({"module": model}), nn.DataParallel])
def test_names_are_the_same_as_without_the_rest(method: str, wrap: Any) -> None:
    inner = encoder(method)
    outer = wrap(inner)
    assert find_config(outer, "default") is inner.peft_config["default"]
    assert adapter_parameters(outer) == adapter_parameters(inner) != []


@pytest.mark.parametrize("method", METHODS)
def test_added_in_place_in_something_nested(method: str) -> None:
    model = nested(method)
    (part,) = adapted_parts(model, "default")
    assert part.path == "0.auto_model"
    assert adapter_parameters(model)[0].name == "encoder.layer.0.attention.self.query.A"


def test_parameters_outside_count() -> None:
    model = Headed(encoder())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    controller = tapertune.attach(model, optimizer, total_steps=10)
    assert controller.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert controller.summary()["other_trainable"] == sum(p.numel() for p in model.head.parameters())


def test_two_encoders_train_under_one_controller() -> None:
    model = Towers(encoder(), encoder())
    names = [handle.name for handle in adapter_parameters(model)]
    assert len(set(names)) == len(names) == 2 * 2 * 6 * 4
    assert {name.partition(".")[0] for name in names} == {"query", "document"}
    rows = [(handle.layer, handle.row) for handle in adapter_parameters(model)]
    assert len(set(rows)) == len(rows)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-2)
    plan = {"schedule": {"warmup": 1, "cooldown": 4, "every": 1}}
    controller = tapertune.attach(model, optimizer, total_steps=6, plan=plan)
    inputs = {k: v for k, v in batch().items() if k != "labels"}
    for _ in range(6):
        optimizer.zero_grad()
        model(**inputs).backward()
        optimizer.step()
    controller.finish()
    assert controller.frozen
    for path in ("query", "document"):
        config = model.get_submodule(path).peft_config["default"]
        frozen = {f"{path}.{module}.{factor}" for module, factors in config.frozen.items() for factor in factors}
        assert frozen == {name for name in controller.frozen if name.startswith(path)} != set()


def test_one_encoder_used_twice_is_one() -> None:
    inner = encoder()
    assert [part.module for part in adapted_parts(Towers(inner, inner), "default")] == [inner]


def test_encoders_that_differ_are_refused() -> None:
    model = Towers(encoder(r=2), encoder(r=4))
    with pytest.raises(TapertuneError, match="in 'query' and 'document' that differ in method, settings or plan"):
        adapter_parameters(model)


def test_what_is_not_there_is_named() -> None:
    model = Headed(encoder())
    with pytest.raises(TapertuneError, match="no adapter 'other'; its adapters: default"):
        find_config(model, "other")
    with pytest.raises(TapertuneError, match="no adapter 'default'; its adapters: none"):
        find_config(mlp(), "default")
    theirs = nn.Sequential(get_peft_model(mlp(), LoraConfig(target_modules=["0"])))
    with pytest.raises(TapertuneError, match=r"is PEFT's .*LORA.*, not one of tapertune's methods"):
        find_config(theirs, "default")


def test_what_an_unloaded_adapter_leaves_behind_is_passed_over() -> None:
    first = encoder().merge_and_unload()
    second = encoder()
    assert [part.module for part in adapted_parts(Towers(first, second), "default")] == [second]


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if name != "loran"])
def test_export_from_inside(method: str, tmp_path: Path) -> None:
    inner = encoder(method, init_weights=False)
    export_model_lora(Headed(inner), tmp_path / "outer")
    export_model_lora(inner, tmp_path / "inner")
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("outer", "inner")]
    assert files[0] == files[1]
    with pytest.raises(TapertuneError, match="in 'query' and 'document': export one of them"):
        export_model_lora(Towers(inner, copy.deepcopy(inner)), tmp_path / "both")


def test_updates_are_kept_inside() -> None:
    model = Headed(encoder("loran", init_weights=False)).eval()
    with torch.no_grad(), updates_kept(model):
        first, second = (model(**batch())["logits"] for _ in range(2))
    with torch.no_grad():
        torch.testing.assert_close(model(**batch())["logits"], first)
    assert torch.equal(first, second)
