"""Gradients through bitsandbytes' 4 bits after an evaluation. Needs bitsandbytes; runs on the CPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

import tapertune
from tapertune.errors import TapertuneError
from tapertune.host import ChainLayer

bnb: Any = pytest.importorskip("bitsandbytes", exc_type=ImportError)
# the library warns at import; that is no part of these tests
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]
WIDTH = 64
X = torch.linspace(-1, 1, 4 * WIDTH).reshape(4, WIDTH)


def base() -> nn.Module:
    """Two adapted layers with one between them that is not."""
    torch.manual_seed(0)
    layers = [bnb.nn.Linear4bit(WIDTH, WIDTH, bias=False, compute_dtype=torch.float32) for _ in range(3)]
    for layer in layers:
        layer.weight = bnb.nn.Params4bit(torch.randn(WIDTH, WIDTH) / 8, requires_grad=False, module=layer)
    return nn.Sequential(*layers).to("cpu")


def config() -> Any:
    return tapertune.make_config("lora", r=2, target_modules=["0", "2"], init_weights=False)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.train()(X).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def evaluate(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(X)


def uses_the_layout() -> bool:
    return bnb.functional.has_avx512bf16()


@pytest.mark.skipif(not uses_the_layout(), reason="bitsandbytes changes nothing on this processor")
def test_without_an_adapter_the_layout_changes() -> None:
    model: Any = base()
    evaluate(model)
    assert all(layer.weight.quant_state.packing_format_for_cpu for layer in model.children())


def test_gradients_pass_after_an_evaluation() -> None:
    model = get_peft_model(base(), config())
    before = gradients(model)
    evaluate(model)
    after = gradients(model)
    assert len(before) == 4 and before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_loaded_adapter_goes_on_training(tmp_path: Any) -> None:
    get_peft_model(base(), config()).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(base(), str(tmp_path), is_trainable=True)
    evaluate(model)
    assert len(gradients(model)) == 4


@pytest.mark.skipif(not uses_the_layout(), reason="bitsandbytes changes nothing on this processor")
def test_an_evaluated_base_is_refused_for_training_and_taken_for_inference(tmp_path: Any) -> None:
    model = base()
    get_peft_model(base(), config()).save_pretrained(tmp_path)
    evaluate(model)
    adapted = get_peft_model(copy.deepcopy(model), config())
    assert evaluate(adapted).isfinite().all()
    with pytest.raises(TapertuneError, match="4-bit layer '0' was evaluated before it had an adapter"):
        gradients(adapted)
    loaded, fresh = (PeftModel.from_pretrained(each, str(tmp_path)) for each in (model, base()))
    expected = evaluate(fresh)
    # the layout's kernels compute in bfloat16
    assert (evaluate(loaded) - expected).norm() < 0.02 * expected.norm()
    ours, theirs = (
        [m.get_base_weight() for m in each.modules() if isinstance(m, ChainLayer)] for each in (loaded, fresh)
    )
    assert all((a - b).norm() < 0.01 * b.norm() for a, b in zip(ours, theirs, strict=True))
