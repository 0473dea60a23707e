"""The README.md of an export: what it is, what was lost, and how it is loaded."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from ..errors import printable
from ..markup import code, escape
from .hub import is_hub_name, licence_of
from .servers import GGUF_FILE, SERVERS, VLLM_RANKS, Served

if TYPE_CHECKING:
    from .exports import ExportReport, MergeReport

_TITLES = {"lora": "LoRA adapter", "gguf": "LoRA adapter for llama.cpp", "mlx": "LoRA adapter for mlx-lm"}
_LIBRARIES = {"lora": "peft", "gguf": "gguf", "mlx": "mlx"}


def export_card(report: ExportReport) -> str:
    """The page of a LoRA adapter, with the metadata that the Hub reads at its head."""
    rank = report.rank or max(row.rank for row in report.modules)
    form = f"one rank, {rank}, in all modules" if report.rank is not None else f"ranks up to {rank}, by module"
    name = code(report.base) if report.base else "its base model"
    kind = "A plain PEFT LoRA adapter" if report.to == "lora" else f"A {_TITLES[report.to]}"
    kinds = sorted({row.module.rpartition(".")[2] for row in report.modules})
    lines = [
        *_head(_LIBRARIES[report.to], "lora", report.base),
        f"# {_TITLES[report.to]}", "",
        f"{kind} for {name}, written by `tapertune export` from an adapter trained by the method {report.method}. It"
        " needs no tapertune.", "",
        f"- {form}; `lora_alpha` equals the rank: the scaling is in the weights",
        f"- {len(report.modules) + len(report.zeros)} modules ({escape(', '.join(kinds[:8]))}"
        f"{', ...' if len(kinds) > 8 else ''}), {len(report.zeros)} of them zero",
        f"- largest relative error of a module's update: {report.worst:.1e}",
        *([f"- saved beside it: {escape(', '.join(report.saved_beside))}"] if report.saved_beside else []), "",
        *_usage(report, rank),
    ]  # fmt: skip
    return "\n".join(lines)


def _usage(report: ExportReport, rank: int) -> list[str]:
    if report.commands:
        return [*(f"    {line}" for line in report.commands), ""]
    base = shlex.quote(printable(report.base)) if report.base else "BASE"
    if report.to == "gguf":
        return [f"    llama-server --model base.gguf --lora {GGUF_FILE}", ""]
    if report.to == "mlx":
        return [f"    mlx_lm.generate --model {base} --adapter-path FOLDER --prompt 'Once upon a time'", ""]
    lines = [
        "```python", "from peft import PeftModel", "", "model = PeftModel.from_pretrained(base_model, FOLDER)", "```",
        "",
    ]  # fmt: skip
    if rank <= VLLM_RANKS[-1] and not report.saved_beside:
        served = Served(base=report.base or "BASE", out="FOLDER", rank=rank)
        lines += [*(f"    {line}" for line in SERVERS["vllm"].commands["lora"](served)), ""]
    return lines


def merge_card(report: MergeReport) -> str:
    """The page of a merged model."""
    replaced = [*report.replaced, *report.added]
    lines = [
        *_head("transformers", "merged", report.base),
        "# Merged model", "",
        f"{code(report.base)} with an adapter in its weights that was trained by the method {report.method}, written"
        " by `tapertune`. It loads with plain transformers.", "",
        f"- {len(report.modules)} modules merged, in {report.dtype}: {report.lost:.1e} of the update is lost to"
        " rounding (relative norm)",
        *([f"- trained whole: {escape(', '.join(replaced))}"] if replaced else []), "",
        *([*(f"    {line}" for line in report.commands), ""] if report.commands else []),
    ]  # fmt: skip
    return "\n".join(lines)


def _head(library: str, tag: str, base: str | None) -> list[str]:
    from huggingface_hub import ModelCardData

    hub = base if base is not None and is_hub_name(base) else None
    relation: dict[str, Any] = {"base_model_relation": "adapter" if tag == "lora" else tag} if hub else {}
    data = ModelCardData(
        base_model=hub, library_name=library, license=licence_of(base) if base else None, tags=[tag, "tapertune"],
        **relation,
    )  # fmt: skip
    return ["---", data.to_yaml(), "---", ""]
