"""A plugin for pytest: the new methods' lines in METHODS, before anything reads it."""

from __future__ import annotations

from new_methods.lora_xs import LORA_XS
from new_methods.soft_lora import SOFT_LORA

from tapertune.methods import METHODS

METHODS["lora_xs"] = LORA_XS
METHODS["soft_lora"] = SOFT_LORA
