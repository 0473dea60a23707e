"""Adapters trained on bases of 4 and 8 bits, as plain LoRA on the same base. Needs bitsandbytes; runs on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adalora_defects.side import adamw, logits
from adalora_defects.test_quantised import quantised
from peft import PeftModel, get_peft_model
from tiny import batch

import tapertune
from tapertune.interop import export_lora
from tapertune.methods import METHODS

# the libraries warn at import and about precision; that is no part of these tests
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]

LINEAR = [name for name, method in METHODS.items() if method.chain(method.settings()).linear]


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
@pytest.mark.parametrize("name", LINEAR)
def test_plain_lora_on_the_same_base(name: str, kind: str, tmp_path: Path) -> None:
    base = quantised(kind, tmp_path / "base")
    without = logits(quantised(kind, tmp_path / "base"))
    torch.manual_seed(1)
    targets = ["query", "value", "intermediate.dense", "output.dense"]
    model = get_peft_model(base, tapertune.make_config(name, target_modules=targets, init_weights=False))
    optimizer = adamw(model)
    for step in range(4):
        optimizer.zero_grad()
        model(**batch(seed=step)).loss.backward()
        optimizer.step()
    ours = logits(model)
    model.save_pretrained(str(tmp_path / "adapter"))
    assert export_lora(tmp_path / "adapter", tmp_path / "lora").worst <= 1e-6
    plain = logits(PeftModel.from_pretrained(quantised(kind, tmp_path / "base"), tmp_path / "lora"))
    assert (ours - without).norm() > 0.1 * ours.norm()
    # the kernel for 4 bits rounds to bfloat16, and a last bit in float32 can turn such a rounding over
    error = ((plain - ours).norm() / ours.norm()).item()
    assert error < 1e-2, f"{error:.1e} of the output"
