"""tapertune: low-rank fine-tuning in which training decides what is worth training.

Importing it makes every method known to PEFT: at once if PEFT is imported, else the moment it is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._lazy import register_with_peft
from .errors import TapertuneError

if TYPE_CHECKING:
    from .adapt import Controller, Plan
    from .host import make_config, parameter_groups, suggest_learning_rate, updates_kept
    from .integrations import TapertuneCallback, attach, cache_layers
    from .methods import METHODS

    __version__: str

_HOMES = {
    "METHODS": "methods",
    "Controller": "adapt",
    "Plan": "adapt",
    "TapertuneCallback": "integrations",
    "attach": "integrations",
    "cache_layers": "integrations",
    "make_config": "host",
    "parameter_groups": "host",
    "suggest_learning_rate": "host",
    "updates_kept": "host",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if name.endswith("Config"):
        methods = importlib.import_module(".methods", __name__).METHODS
        method = next((m for m in methods.values() if m.config_name == name), None)
        if method is not None:
            return importlib.import_module(".host", __name__).config_class(method.name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # reading it takes as long as all the rest here

    try:
        return version("tapertune")
    except PackageNotFoundError:  # used from a source tree that is not installed
        return "0+unknown"


def __dir__() -> list[str]:
    methods = importlib.import_module(".methods", __name__).METHODS
    return sorted([*globals(), "__version__", *_HOMES, *(m.config_name for m in methods.values())])


register_with_peft()

__all__ = [
    "METHODS",
    "Controller",
    "Plan",
    "TapertuneCallback",
    "TapertuneError",
    "__version__",
    "attach",
    "cache_layers",
    "make_config",
    "parameter_groups",
    "suggest_learning_rate",
    "updates_kept",
]
