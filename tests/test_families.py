"""Real models of each family: trained some steps by each method, saved, loaded, merged, exported."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from layer_kinds import rotation
from peft import PeftModel, get_peft_model
from torch import Tensor

import tapertune
from tapertune.errors import TapertuneError
from tapertune.host import ChainLayer, coverage
from tapertune.interop import export_lora, merge
from tapertune.methods import METHODS

TURNS = list(zip(FAMILIES, rotation(len(FAMILIES)), strict=True))
RENAMED = ("vit", "llava")  # transformers writes their weights under other names than its modules have
pytestmark = [
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
    pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups:UserWarning"),
    pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied:UserWarning"),
]


def logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model.eval()(**inputs).logits


@pytest.mark.parametrize(
    ("family", "method"),
    [
        pytest.param(family, method, marks=() if (family, method) in TURNS else pytest.mark.slow)
        for family in FAMILIES
        for method in METHODS
    ],
)
def test_trained_saved_loaded_merged_exported(family: str, method: str, tmp_path: Path) -> None:
    row, it = METHODS[method], FAMILIES[family]
    base = it.model()
    base.save_pretrained(tmp_path / "base")
    plain = logits(copy.deepcopy(base), it.inputs)
    torch.manual_seed(1)
    model = get_peft_model(
        copy.deepcopy(base), tapertune.make_config(method, **{row.rank: 2}, target_modules=it.targets)
    )
    layers = [module for module in model.modules() if isinstance(module, ChainLayer)]
    assert {layer.facts_of(layer.get_base_layer()).get("type", "Linear") for layer in layers} == it.kinds
    torch.testing.assert_close(logits(model, it.inputs), plain)
    covered = coverage(model)
    covered.check()
    assert covered.modules == len(layers) and not covered.missing
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    controller = tapertune.attach(model, optimizer, total_steps=3)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        model(**it.inputs).loss.backward()
        optimizer.step()
    controller.finish()
    expected = logits(model, it.inputs)
    assert (expected - plain).abs().max() > 1e-4
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(it.model(), tmp_path / "adapter")
    if family != "resnet":  # whose running means have moved
        torch.testing.assert_close(logits(again, it.inputs), expected, atol=1e-5, rtol=1e-4)
    expected = logits(again, it.inputs)
    error = None if row.chain(row.settings()).linear else 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = export_lora(tmp_path / "adapter", tmp_path / "lora", max_error=error)
    assert report.lossless is (error is None)
    if family != "whisper":  # which reads the strides of its convolutions, that PEFT's layers do not have
        lora = PeftModel.from_pretrained(it.model(), tmp_path / "lora")
        torch.testing.assert_close(logits(lora, it.inputs), expected, atol=1e-3, rtol=1e-3)
    if family in RENAMED:
        with pytest.raises(TapertuneError, match="has no weight for the adapted module"):
            merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    else:
        merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
        whole = type(base).from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(logits(whole, it.inputs), expected, atol=1e-4, rtol=1e-3)
    merged = again.merge_and_unload()
    torch.testing.assert_close(logits(merged, it.inputs), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("target", ["conv1d", "out_proj"])
def test_mamba_refuses_what_peft_refuses(target: str) -> None:
    with pytest.raises(TapertuneError, match=f"{target}' cannot be adapted: it is incompatible with Mamba-based"):
        get_peft_model(FAMILIES["mamba"].model(), tapertune.make_config("lora", target_modules=["in_proj", target]))
