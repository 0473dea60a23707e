"""The learning rate of a run: the rule's where it is ``auto``, and what the rule says of one that was given."""

from __future__ import annotations

from transformers import TrainingArguments

from ..host import find_config, suggest_learning_rate
from ..host.rates import hidden_width
from ..methods.rates import RateRule, SuggestedRate, suggested
from ..runfile.arguments import AUTO
from ..runfile.record import Rate
from ..runfile.settings import RunSettings
from .models import Built

_SOURCE = "grids of three rates, benchmarks/results/minilm.jsonl"
# of what trains without an adapter
BASELINE_RULES = {
    "full": RateRule(rate=1e-4, slowest=1e-5, fastest=1e-3, length=0.2, source=_SOURCE),
    "head": RateRule(rate=3e-2, slowest=1e-3, fastest=3e-1, length=0.2, source=_SOURCE),
}


def rule_of_run(settings: RunSettings, built: Built, args: TrainingArguments, steps: int) -> SuggestedRate:
    """What the rule says of a run.

    Args:
        settings: the run's.
        built: its model, with the adapter.
        args: Trainer's, which know the rows of a step.
        steps: optimizer steps of the run.
    """
    batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    name = settings.method.name
    if name in BASELINE_RULES:
        width = hidden_width(built.model)
        return suggested(BASELINE_RULES[name], None, None, name=name, width=width, steps=steps, batch=batch)
    return suggest_learning_rate(built.model, find_config(built.model, "default"), steps, batch)


def rate_of_record(record: Rate) -> SuggestedRate:
    """The rate that a run began with, whatever the rule says by now."""
    return SuggestedRate(record.rate, record.low, record.high, tuple(record.reasons), record.source)


def record_of_rate(settings: RunSettings, rule: SuggestedRate) -> Rate | None:
    """What ``run.json`` keeps of the rule: nothing where the rate was given."""
    if settings.training["learning_rate"] != AUTO:
        return None
    return Rate(rate=float(rule), low=rule.low, high=rule.high, reasons=list(rule.reasons), source=rule.source)


def rate_line(settings: RunSettings, rule: SuggestedRate) -> str | None:
    """What to say of a run's rate: which it takes and why, or that the given one is far off; None if it is not."""
    given = settings.training["learning_rate"]
    if given == AUTO:
        return f"note: learning rate {rule.explain()}"
    doubt = rule.doubt(given, settings.method.name)
    return None if doubt is None else f"warning: training.learning_rate: {doubt}"
