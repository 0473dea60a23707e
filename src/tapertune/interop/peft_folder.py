"""A folder that PEFT loads as plain LoRA, without tapertune. The scaling is in ``lora_B``, and ``lora_alpha`` equals
the rank, so that it is 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import write_json
from ..host.module_names import ROOT
from .completion import target_names
from .contents import Contents
from .folder import CONFIG, WEIGHTS
from .truncation import Pair


def write_peft(folder: Path, contents: Contents) -> None:
    """Writes config and weights, and what is saved whole beside them."""
    from safetensors.torch import save_file

    state: dict[str, Tensor] = {ROOT + name: tensor.clone().contiguous() for name, tensor in contents.saved.items()}
    for module, (down, up) in contents.pairs.items():
        state[f"{ROOT}{module}.lora_A.weight"] = down.contiguous()
        state[f"{ROOT}{module}.lora_B.weight"] = up.contiguous()
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    write_json(folder / CONFIG, peft_config(contents))


def read_peft(folder: Path, model: Any) -> Any:
    """The model with the folder's adapter in it."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder)


def peft_config(contents: Contents) -> dict[str, Any]:
    """The fields that every version of PEFT's LoRA knows, and the version that wrote them, which later ones ask for."""
    import peft

    config, shapes, ranks = contents.adapter.config, contents.shapes, contents.ranks
    # PEFT takes the first pattern that a module's path ends with: the longer of two must come first, and each have one
    ordered = sorted(ranks, key=lambda module: (-len(module), module))
    pattern = {module: ranks[module] for module in ordered} if len(set(ranks.values())) > 1 else {}
    return {
        "peft_type": "LORA",
        "peft_version": peft.__version__,
        "task_type": getattr(config.task_type, "value", config.task_type),
        "base_model_name_or_path": contents.base,
        "revision": config.revision,
        "inference_mode": True,
        "r": max(ranks.values()),
        "lora_alpha": max(ranks.values()),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": shapes is not None and shapes.transposed,
        "target_modules": sorted(ranks) if contents.rank is None else target_names(ranks, shapes),
        "modules_to_save": config.modules_to_save if contents.saved else None,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern),
        "init_lora_weights": True,
        "use_rslora": False,
    }


@torch.no_grad()
def add_pairs(model: Any, pairs: dict[str, Pair]) -> Any:
    """The model with each update added to its module's weight (d_out, d_in)."""
    for module, (down, up) in pairs.items():
        weight = model.get_submodule(module).weight
        weight += (up @ down).to(weight.dtype)
    return model
