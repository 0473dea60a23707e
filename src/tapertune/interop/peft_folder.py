"""A folder that PEFT loads as plain LoRA, without tapertune. The scaling is in ``lora_B``, and ``lora_alpha`` equals
the rank, so that it is 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import write_json
from ..host.module_names import ROOT
from .attention_output import times_added
from .completion import target_names
from .contents import Contents
from .experts import parameter_of, stacked_names, stacked_pair
from .folder import CONFIG, WEIGHTS
from .layer_kinds import is_inside
from .servers import ADDED_TWICE
from .truncation import Pair


def check_peft(contents: Contents) -> None:
    """Notes what the installed PEFT computes otherwise.

    Raises:
        TapertuneError: a module is of a kind of which PEFT's LoRA computes another update.
    """
    for module in contents.adapter.modules:
        contents.kind(module).check_lora(module)
    if any(map(is_inside, contents.pairs)) and times_added() != 1:
        contents.notes.append(ADDED_TWICE)


def write_peft(folder: Path, contents: Contents) -> None:
    """Writes config and weights, and what is saved whole beside them."""
    from safetensors.torch import save_file

    state: dict[str, Tensor] = {ROOT + name: tensor.clone().contiguous() for name, tensor in contents.saved.items()}
    for module, (down, up) in _layers(contents).items():
        up = up / times_added() if is_inside(module) else up
        for name, tensor in contents.kind(module).lora(down, up).items():
            state[f"{ROOT}{module}.{name}"] = tensor.contiguous()
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    write_json(folder / CONFIG, peft_config(contents))


def _layers(contents: Contents) -> dict[str, Pair]:
    """The pairs by the layers that PEFT has for them: those of one parameter stacked."""
    layers, stacks = {}, dict[str, dict[int, Pair]]()
    for module, pair in contents.pairs.items():
        place = parameter_of(contents.adapter.config, module)
        if place is None:
            layers[module] = pair
        else:
            stacks.setdefault(place[0], {})[place[1]] = pair
    names = stacked_names(stacks, {} if contents.shapes is None else contents.shapes.held)
    return layers | {names[path]: stacked_pair(stack) for path, stack in stacks.items()}


def read_peft(folder: Path, model: Any) -> Any:
    """The model with the folder's adapter in it."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder)


def peft_config(contents: Contents) -> dict[str, Any]:
    """The fields that every version of PEFT's LoRA knows, and the version that wrote them, which later ones ask for."""
    import peft

    config, shapes, tokens = contents.adapter.config, contents.shapes, contents.adapter.config.trainable_token_indices
    held = {m: place[0] for m in contents.pairs if (place := parameter_of(config, m)) is not None}
    ranks = {m: contents.kind(m).rank(rank) for m, rank in contents.ranks.items() if m not in held}
    largest = max([*ranks.values(), *(contents.ranks[module] for module in held)])
    named = [module for module in ranks if not is_inside(module)]
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
        "r": largest,
        "lora_alpha": largest,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": shapes is not None and shapes.transposed,
        "target_modules": sorted(named) if contents.rank is None else target_names(named, shapes),
        **({"target_parameters": sorted(set(held.values()))} if held else {}),
        "modules_to_save": config.modules_to_save if contents.saved else None,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern),
        "init_lora_weights": True,
        "use_rslora": False,
        **({} if tokens is None else {"trainable_token_indices": tokens}),
    }


@torch.no_grad()
def add_pairs(model: Any, pairs: dict[str, Pair]) -> Any:
    """The model with each update added to its module's weight (d_out, d_in)."""
    for module, (down, up) in pairs.items():
        weight = model.get_submodule(module).weight
        weight += (up @ down).to(weight.dtype)
    return model
