"""Quantised bases: training on them and merging into them. Needs bitsandbytes and torchao; both run on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adalora_defects.side import TOTAL, Follower, adamw, logits, make, ranks, train
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from tapertune.host import ChainLayer

# the libraries warn at import and about precision; that is no part of these tests
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]


def quantisation(kind: str) -> Any:
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if kind == "torchao":
        settings = pytest.importorskip("torchao.quantization", exc_type=ImportError).Int8WeightOnlyConfig()
        return TorchAoConfig(settings, modules_to_not_convert=["classifier"])
    pytest.importorskip("bitsandbytes", exc_type=ImportError)
    loading = {"load_in_8bit": True} if kind == "8bit" else {"load_in_4bit": True}
    return BitsAndBytesConfig(**loading, llm_int8_skip_modules=["classifier"])


def quantised(kind: str, folder: Path) -> nn.Module:
    """One layer of BERT, as wide as the CPU kernels for 4 bits ask for."""
    config = quantisation(kind)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    drop = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    bert = BertForSequenceClassification(BertConfig(vocab_size=64, max_position_embeddings=32, **sizes, **drop))
    bert.save_pretrained(folder)
    return AutoModelForSequenceClassification.from_pretrained(folder, quantization_config=config, device_map="cpu")


@pytest.mark.parametrize("kind", ["8bit", "4bit", "torchao"])
def test_training_on_a_quantised_base_and_merging_into_it(kind: str, tmp_path: Path) -> None:
    """PEFT 0.21.2 trains and then fails to merge. bitsandbytes, 8 and 4 bits: NotImplementedError, without a message;
    torchao: NotImplementedError: Int8Tensor dispatch: attempting to run unimplemented operator/function:
    func=<OpOverload(op='aten.add_', overload='Tensor')>.
    """
    model = make(quantised(kind, tmp_path))
    optimizer = adamw(model)
    train(model, optimizer, Follower(model, optimizer), range(TOTAL))
    assert sum(ranks(model)) == 2 * len(ranks(model))
    layers = {name: m for name, m in model.named_modules() if isinstance(m, ChainLayer)}
    with torch.no_grad():
        for layer in layers.values():  # an update that quantisation does not round away
            layer.factor("default", "A").mul_(30)
            layer.factor("default", "B").mul_(30)
    expected = {name: m.get_base_weight() + m.get_delta_weight("default") for name, m in layers.items()}
    logits(model)  # bitsandbytes lays 4-bit weights out anew when it evaluates on a CPU
    model.merge_adapter()
    for name, layer in layers.items():
        error = (layer.get_base_weight() - expected[name]).norm() / expected[name].norm()
        assert error < (0.2 if kind == "4bit" else 0.02), f"{name}: {error:.3f}"
    merged = logits(model)
    torch.testing.assert_close(logits(model.merge_and_unload()), merged, atol=1e-2, rtol=1e-2)
