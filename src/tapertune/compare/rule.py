"""The learning rate that ``auto`` would have taken in a run of a grid."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from ..errors import TapertuneError
from ..host.rates import hidden_width
from ..methods import METHODS
from ..methods.rates import SuggestedRate, suggested
from ..runfile.settings import BASELINES, adapter_config, check_settings
from ..train.models import find_model
from ..train.rates import BASELINE_RULES
from .jobs import Comparison
from .record import RunRecord

Rule = Callable[[RunRecord], "SuggestedRate | None"]
"""What the rule says of a run; None where it has nothing to say, as of PEFT's own rows."""


def rule_of(comparison: Comparison) -> Rule | None:
    """The rule for runs on a grid's model; None where the model's config cannot be had."""
    from transformers import AutoConfig

    name = str(next(iter(comparison.raw.values()))["model"])
    try:
        width = hidden_width(SimpleNamespace(config=AutoConfig.from_pretrained(find_model(name)), modules=list))  # pyright: ignore[reportArgumentType]
    except (OSError, ValueError, TapertuneError):
        return None

    def rule(record: RunRecord) -> SuggestedRate | None:
        method, steps, batch = str(record.method["name"]), record.steps, _batch(record)
        if steps is None:  # it did not come to its end
            return None
        if method in BASELINES:
            return suggested(BASELINE_RULES[method], None, None, name=method, width=width, steps=steps, batch=batch)
        if method not in METHODS or (record.row, record.task) not in comparison.raw:
            return None
        try:
            task = comparison.raw[record.row, record.task]["task"]
            settings = check_settings({**record.settings, "model": name, "task": task})
            row, config = METHODS[method], adapter_config(settings)
        except TapertuneError:  # settings of another version
            return None
        return suggested(
            row.rates, config.settings(), row.settings(), name=method, width=width, steps=steps, batch=batch
        )

    return rule


def _batch(record: RunRecord) -> int:
    training = record.settings.get("training", {})
    return training.get("per_device_train_batch_size", 8) * training.get("gradient_accumulation_steps", 1)
