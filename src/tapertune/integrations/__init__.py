"""The controller inside training loops: Trainer, Accelerate, plain. No decisions here."""

from __future__ import annotations

from .loop import attach, cache_layers
from .manifest import new_checkpoint, whole_checkpoint
from .state import read_state, restore, save_state
from .trainer import TapertuneCallback

__all__ = [
    "TapertuneCallback",
    "attach",
    "cache_layers",
    "new_checkpoint",
    "read_state",
    "restore",
    "save_state",
    "whole_checkpoint",
]
