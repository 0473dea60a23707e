"""All settings that a run accepts, by dotted names: where the one that was meant is looked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..tasks.declare import task_fields
from .arguments import training_names
from .blocks import CacheBlock, EarlyStoppingBlock, HeadBlock, QuantizationBlock, TaskBlock

BASELINES = ("full", "head")  # trained without an adapter: every weight, or the head alone
_PLAN = ("importance", "schedule", "policy", "penalties", "final_update", "observe", "compact")


def known_settings(top: list[str], raw: Mapping[str, Any]) -> list[str]:
    """Dotted names of the settings of a run, those first that are meant more often.

    Args:
        top: the names of the outermost ones.
        raw: the run's settings, as far as they can be read: of its method and its task, only the fields count.
    """
    blocks: dict[str, list[str]] = {
        "method": method_fields(_name(raw, "method")),
        "training": training_names(),
        "task": [*TaskBlock.model_fields, *task_fields(_name(raw, "task"))],
        "head": list(HeadBlock.model_fields),
        "early_stopping": list(EarlyStoppingBlock.model_fields),
        "quantization": list(QuantizationBlock.model_fields),
        "cache": list(CacheBlock.model_fields),
        "plan": list(_PLAN),
    }
    return [*top, *(f"{block}.{name}" for block, names in blocks.items() for name in names)]


def method_fields(method: str) -> list[str]:
    """What a run may set of a method; of an unknown one, what it may set of LoRA."""
    from ..host.config import run_fields
    from ..methods import METHODS

    if method in BASELINES:
        return ["name"]
    return ["name", *run_fields(method if method in METHODS else "lora")]


def _name(raw: Mapping[str, Any], block: str) -> str:
    value = raw.get(block)
    return str(value.get("name", "")) if isinstance(value, Mapping) else str(value)
