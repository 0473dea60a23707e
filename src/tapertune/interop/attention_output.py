"""How often PEFT's LoRA adds the update of an attention's output projection.

``peft.tuners.lora.MultiheadAttention`` puts a merged weight into the projection and then has the projection merge,
which in the versions so far adds the same update again. An export is to give the same outputs there, so the installed
PEFT is asked.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn


@functools.cache
def times_added() -> float:
    """How many times the installed PEFT adds the update: 1 as the equations have it, or 2."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        base = nn.ModuleDict({"part": nn.MultiheadAttention(1, 1)})
        part: Any = base["part"]
        before = part.out_proj.weight.detach().double().clone()
        model = get_peft_model(base, LoraConfig(r=1, lora_alpha=1, target_modules=["part"]))  # type: ignore[arg-type]
        for name, parameter in model.named_parameters():
            if "out_proj.lora_" in name:
                nn.init.ones_(parameter)
        merged: Any = model
        after = merged.merge_and_unload()["part"].out_proj.weight.detach().double()
    return round((after - before).item(), 3)
