"""The README.md of an export: what it is, what was lost, and how it is loaded."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import printable
from ..markup import code, escape
from .servers import VLLM_RANKS

if TYPE_CHECKING:
    from .exports import ExportReport


def export_card(report: ExportReport, base: str | None, config: dict[str, Any]) -> str:
    """The page, with the metadata that the Hub reads at its head."""
    hub = base if base is not None and _is_hub_name(base) else None
    head = ["library_name: peft", "tags: [lora, tapertune]"] + ([f"base_model: {hub}"] if hub else [])
    rank, targets = config["r"], config["target_modules"]
    form = f"one rank, {rank}, in all modules" if report.rank is not None else f"ranks up to {rank}, by module"
    name = code(base) if base else "its base model"
    lines = [
        "---", *head, "---", "",
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


def _is_hub_name(base: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(base)
    except HFValidationError:
        return False
    return not Path(base).exists()
