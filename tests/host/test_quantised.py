"""Base weights behind bitsandbytes' 4 bits. Needs bitsandbytes; runs on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn

import tapertune
from tapertune.host import ChainLayer

# the library warns at import; that is no part of these tests
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]


def four_bits(d_in: int, d_out: int, double: bool) -> nn.Module:
    """A quantised layer of several blocks a row, with scales that differ from block to block.

    Args:
        d_in, d_out: its widths.
        double: whether the blocks' scales are quantised as well.
    """
    bnb: Any = pytest.importorskip("bitsandbytes", exc_type=ImportError)
    torch.manual_seed(0)
    weight = torch.randn(d_out, d_in) * torch.logspace(0, 1, d_out)[:, None] * torch.logspace(0, 1, d_in)
    kind: dict[str, Any] = {"compress_statistics": double, "quant_type": "nf4"}
    layer = bnb.nn.Linear4bit(d_in, d_out, bias=False, compute_dtype=torch.float32, **kind)
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, module=layer, **kind)
    return layer.to("cpu")


@pytest.mark.parametrize("double", [False, True])
def test_the_base_weight_is_the_same_after_an_evaluation(double: bool) -> None:
    """bitsandbytes 0.50.2, asked to undo its layout for the CPU, leaves the blocks' scales in another order."""
    config = tapertune.make_config("lora", target_modules=["0"])
    model = get_peft_model(nn.Sequential(four_bits(256, 128, double)), config)
    layer = next(m for m in model.modules() if isinstance(m, ChainLayer))
    x = torch.randn(4, 256)
    before = layer.get_base_weight().clone()
    for _ in range(2):
        with torch.no_grad():
            output = model.eval()(x)
        assert (output - x @ before.T).norm() < 0.01 * output.norm()
        assert (layer.get_base_weight() - before).norm() < 0.01 * before.norm()
