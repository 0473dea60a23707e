"""PEFT's LoRA adapters. Ranks may differ by module; scalings that do are folded into B."""

from __future__ import annotations

import math
import re

from ...errors import TapertuneError
from .layout import Format, Imported, need_factors, peft_fields, peft_key, ranks_of, saved_modules, split_keys
from .peft_fields import LORA, check_fields, pattern_value
from .source import Source

_KEY = peft_key("lora_A|lora_B")
_OTHER = r"\.(lora_E|lora_db?|lora_aa)(\.|$)|\.lora\.(gate|lora_)|mlora_"
_BACKWARD = r"\.lora_velora_embed(\.|$)"  # VeLoRA's, which forward does not read


def _matches(source: Source) -> bool:
    return source.has(r"^base_model\..*\.lora_A(\.|$)") and not source.has(_OTHER)


def read(source: Source) -> Imported:
    config = source.config
    _refuse(source)
    modules, rest = split_keys(source, _KEY, FORMAT.name)
    need_factors(source, modules, ("lora_A", "lora_B"))
    rest = {key: tensor for key, tensor in rest.items() if not re.search(_BACKWARD, key)}
    extras = saved_modules(source, rest, modules, r"\.lora_")
    if config.get("ensure_weight_tying") and extras:
        raise TapertuneError(
            f"{source.path}: ensure_weight_tying is true beside trained weights ({next(iter(extras))}): what is tied to"
            " them is not in the file; merge it with PEFT"
        )
    ranks = {m: t["lora_A"].shape[0] for m, t in modules.items()}
    r = _check_ranks(source, ranks)
    alpha = source.need_alpha(FORMAT.name, config.get("lora_alpha"), "as trained")
    rslora = bool(config.get("use_rslora"))
    scale = _scaling(alpha, r, rslora)
    fields = peft_fields(source, modules, extras) | {"r": r, "lora_alpha": scale * r}
    fields |= {"dropout": config.get("lora_dropout") or 0.0, "ranks": ranks_of(modules, "lora_A", r)}
    renamed = {}
    for module, tensors in modules.items():
        own = _scaling(pattern_value(config.get("alpha_pattern"), module, alpha), ranks[module], rslora)
        b = tensors["lora_B"]
        renamed[module] = {"A": tensors["lora_A"], "B": b if own == scale else (b.double() * (own / scale)).float()}
    return Imported(method="lora", fields=fields, modules=renamed, extras=extras)


def _refuse(source: Source) -> None:
    """Variants of LoRA whose update is another one."""
    check_fields(source, LORA, closed=True)
    for key, tensor in source.state.items():
        if re.search(r"\.lora_[AB](\.|$)", key) and tensor.dim() != 2:
            raise TapertuneError(f"{source.path}: {key} has shape {tuple(tensor.shape)}; only linear layers are read")


def _check_ranks(source: Source, ranks: dict[str, int]) -> int:
    """The config's rank; the largest where there is no config.

    Raises:
        TapertuneError: the tensors are of other ranks than the config says, so that the scaling cannot be known.
    """
    r = source.config.get("r")
    if r is None:
        return max(ranks.values())
    for module, rank in ranks.items():
        expected = pattern_value(source.config.get("rank_pattern"), module, r)
        if rank != expected:
            raise TapertuneError(
                f"{source.path}: the config says rank {expected} for {module}, its tensors have {rank}"
            )
    return r


def _scaling(alpha: float, r: int, rslora: bool) -> float:
    return alpha / (math.sqrt(r) if rslora else r)


FORMAT = Format(name="peft-lora", title="PEFT's LoRA", matches=_matches, read=read)
