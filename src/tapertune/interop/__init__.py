"""Adapters in and out: plain LoRA, merged weights, and the files that the methods' authors' code wrote.

What this offers is loaded when it is asked for: describing a folder takes no torch, exporting it does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import Comparison
    from .description import describe_adapter
    from .exporting import export
    from .exports import ExportReport, MergeReport, ModuleExport
    from .importers import FORMATS, ImportReport, import_adapter
    from .lora import export_lora, export_model_lora
    from .merging import merge

_PLACES = {
    "comparison": ("Comparison",),
    "description": ("describe_adapter",),
    "exporting": ("export",),
    "exports": ("ExportReport", "MergeReport", "ModuleExport"),
    "importers": ("FORMATS", "ImportReport", "import_adapter"),
    "lora": ("export_lora", "export_model_lora"),
    "merging": ("merge",),
}

__all__ = [
    "FORMATS",
    "Comparison",
    "ExportReport",
    "ImportReport",
    "MergeReport",
    "ModuleExport",
    "describe_adapter",
    "export",
    "export_lora",
    "export_model_lora",
    "import_adapter",
    "merge",
]


def __getattr__(name: str) -> Any:
    for place, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{place}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
