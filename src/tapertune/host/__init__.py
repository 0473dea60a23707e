"""The methods inside PEFT. Importing this registers them."""

from __future__ import annotations

from ..adapt import missing_controller
from .config import ChainConfig, config_class, make_config
from .coverage import Coverage, coverage
from .layer import ChainLayer, layer_class
from .loading import load_adapted
from .merged_weight import updates_kept
from .model import ChainTuner, adapt_model, note_ranks, tuner_class
from .older_peft import call_before_saving
from .parameters import FactorParameter, adapter_parameters
from .rates import parameter_groups, suggest_learning_rate
from .registration import register
from .search import adapted_parts, find_config, planned_adapters

register()
call_before_saving(note_ranks)
missing_controller.install()

__all__ = [
    "ChainConfig",
    "ChainLayer",
    "ChainTuner",
    "Coverage",
    "FactorParameter",
    "adapt_model",
    "adapted_parts",
    "adapter_parameters",
    "config_class",
    "coverage",
    "find_config",
    "layer_class",
    "load_adapted",
    "make_config",
    "parameter_groups",
    "planned_adapters",
    "register",
    "suggest_learning_rate",
    "tuner_class",
    "updates_kept",
]
