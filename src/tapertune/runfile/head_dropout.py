"""Dropout before the classifier, which models' configs call by several names."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import TapertuneError

# By model type; "classifier_dropout" for all others.
_FIELDS = {
    "albert": "classifier_dropout_prob",
    "deberta": "cls_dropout",
    "deberta-v2": "cls_dropout",
    "distilbert": "seq_classif_dropout",
    "rembert": "classifier_dropout_prob",
}


def set_head_dropout(config: Any, value: float) -> None:
    """Sets it in a config, for a model that is made afterwards."""
    setattr(config, _FIELDS.get(config.model_type, "classifier_dropout"), value)


def check_head_dropout(model: nn.Module, value: float | None = None) -> None:
    """Does a model have dropout outside its base model, of that value if one is given?

    Raises:
        TapertuneError: no, so that ``head.dropout`` would do nothing.
    """
    base = f"{model.base_model_prefix}."
    outside = [module for name, module in model.named_modules() if not name.startswith(base)]
    values = [module.p for module in outside if isinstance(module, nn.Dropout)]
    if not values or value not in (None, *values):
        kind = getattr(model.config, "model_type", "this")
        raise TapertuneError(
            f"head.dropout: {type(model).__name__} ({kind}) has no dropout before its classifier that can be set"
        )
