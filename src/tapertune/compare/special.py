"""Rows that are no methods of tapertune's: PEFT's own under the same Trainer, and compressed LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import TapertuneError, bad_value

PEFT_ROWS = ("peft-lora", "peft-adalora", "peft-vera", "peft-dora")
COMPRESSED = "compressed-lora"
COMPRESSED_RANK, COMPRESSED_TO = 32, 8
_PLACES = ("target_modules", "exclude_modules", "modules_to_save")  # which modules: the same for PEFT's and for ours


def run_method(method: Mapping[str, Any]) -> dict[str, Any]:
    """The method block of the run file behind a special row: a LoRA in the same modules. Compressed LoRA trains it;
    PEFT's rows take its place in the model."""
    fields = {name: value for name, value in method.items() if name != "name"}
    if method["name"] == COMPRESSED:
        kept = {name: value for name, value in fields.items() if name not in ("to", "energy")}
        return {"name": "lora", "r": COMPRESSED_RANK, **kept}
    return {"name": "lora", **{name: value for name, value in fields.items() if name in _PLACES}}


def compressed_form(method: Mapping[str, Any]) -> dict[str, Any]:
    """How a compressed LoRA is cut: ``{"rank": 8}`` or ``{"energy": 0.9}``."""
    if "energy" in method:
        return {"energy": method["energy"]}
    return {"rank": method.get("to", COMPRESSED_TO)}


def check_special(method: Mapping[str, Any]) -> None:
    """
    Raises:
        TapertuneError: a field of a special row is unknown or has a wrong value.
    """
    if method["name"] in PEFT_ROWS:
        from .peft_rows import peft_config

        peft_config(method, steps=100)
        return
    if "to" in method and "energy" in method:
        raise TapertuneError(f"{COMPRESSED}: to and energy exclude each other: either says where the update is cut")
    to, rank = method.get("to", COMPRESSED_TO), method.get("r", COMPRESSED_RANK)
    if isinstance(to, bool) or not isinstance(to, int) or to < 1:
        raise bad_value(f"{COMPRESSED}: to", to, "a whole number of at least 1")
    if "energy" not in method and isinstance(rank, int) and to > rank:
        raise bad_value(f"{COMPRESSED}: to", to, f"at most the rank that is trained, which is {rank}")
    energy = method.get("energy", 1.0)
    if isinstance(energy, bool) or not isinstance(energy, int | float) or not 0 < energy <= 1:
        raise bad_value(f"{COMPRESSED}: energy", energy, "above 0 and at most 1")
