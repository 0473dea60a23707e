"""The README.md of an export: what it is, what was lost, and how it is loaded."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from ..errors import printable
from ..markup import code, escape
from .hub import is_hub_name, licence_of
from .servers import VLLM_RANKS

if TYPE_CHECKING:
    from .exports import ExportReport


def export_card(report: ExportReport, base: str | None, config: dict[str, Any]) -> str:
    """The page, with the metadata that the Hub reads at its head."""
    from huggingface_hub import ModelCardData

    hub = base if base is not None and is_hub_name(base) else None
    related: dict[str, Any] = {"base_model_relation": "adapter"} if hub else {}
    head = ModelCardData(
        base_model=hub, library_name="peft", license=licence_of(base) if base else None,
        tags=["lora", "tapertune", report.method], **related,
    ).to_yaml()  # fmt: skip
    rank, targets = config["r"], config["target_modules"]
    form = f"one rank, {rank}, in all modules" if report.rank is not None else f"ranks up to {rank}, by module"
    name = code(base) if base else "its base model"
    lines = [
        "---", head, "---", "",
        "# LoRA adapter", "",
        f"A plain PEFT LoRA adapter for {name}, written by `tapertune export` from an adapter trained by the method "
        f"{report.method}. It needs no tapertune.", "",
        f"- {form}; `lora_alpha` equals the rank: the scaling is in the weights",
        f"- {len(report.modules) + len(report.zeros)} modules ({escape(', '.join(targets[:8]))}"
        f"{', ...' if len(targets) > 8 else ''}), {len(report.zeros)} of them zero",
        f"- largest relative error of a module's update: {report.worst:.1e}",
        *([f"- saved beside it: {escape(', '.join(report.saved_beside))}"] if report.saved_beside else []), "",
        "```python", "from peft import PeftModel", "", "model = PeftModel.from_pretrained(base_model, FOLDER)", "```",
        "",
    ]  # fmt: skip
    allowed = [largest for largest in VLLM_RANKS if largest >= rank]
    if allowed and not report.saved_beside:
        options = f"--enable-lora --max-lora-rank {allowed[0]} --lora-modules NAME=FOLDER"
        lines += [f"    vllm serve {shlex.quote(printable(base)) if base else 'BASE'} {options}", ""]
    return "\n".join(lines)
