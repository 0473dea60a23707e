"""Adapters in and out: plain LoRA, merged weights, and the files that the methods' authors' code wrote."""

from __future__ import annotations

from .comparison import Comparison
from .exports import ExportReport, ModuleExport
from .importers import FORMATS, ImportReport, import_adapter
from .lora import export_lora, export_model_lora
from .merge import MergeReport, merge

__all__ = [
    "FORMATS",
    "Comparison",
    "ExportReport",
    "ImportReport",
    "MergeReport",
    "ModuleExport",
    "export_lora",
    "export_model_lora",
    "import_adapter",
    "merge",
]
