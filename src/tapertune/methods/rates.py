"""How fast a method learns: its learning rate as a rule of the model's width, the run's length and its own settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import bad_value

MOST = 100  # a rate of so much or more is none: one step of Adam moves every weight by the rate
WIDTH, STEPS, BATCH = 384, 90, 8  # of the runs that the constants are fitted on
_SHORTEST, _LONGEST = 30, 20_000  # steps beyond which nothing is known of how the rate goes on
# Rates at 189 and 300 steps: benchmarks/results/minilm.jsonl; at 90 steps: rates.jsonl there. How they fall with steps,
# up to 50,000: the papers' rates, as in recipes.
MEASURED = "fitted on short runs of MiniLM and the papers' rates, docs/rates.md"


def _unit(settings: Any) -> float:
    return 1.0


@dataclass(frozen=True, kw_only=True)
class RateRule:
    """A learning rate for AdamW with a linear schedule.

    ``rate (hidden / 384)^-width (steps / 90)^-length (gain / gain of the default settings)^-power``; batches of less
    than 8 rows take the square root of their share of it, and narrower models the rate of that width.

    Attributes:
        rate: the best at hidden width 384 and 90 steps in batches of 8, with default settings.
        slowest, fastest: between them the method learned there.
        width: exponent of the hidden width: 1/2 where matrices learn (the update of a matrix adds up over its
            inputs), 0 for vectors.
        length: exponent of the number of steps.
        gain: settings -> how far the update moves with its factors, up to a constant: scaling times rank, say.
        power: exponent of the gain, one over the number of factors that learn together.
        factors: learning rates of factors as multiples of the run's; 1 for those that are not named.
        source: where the constants come from.
    """

    rate: float
    slowest: float
    fastest: float
    width: float = 0.5
    length: float = 0.3
    gain: Callable[[Any], float] = _unit
    power: float = 0.5
    factors: Mapping[str, float] = field(default_factory=dict)
    source: str = MEASURED


def check_rate(field: str, value: Any, also: str = "") -> None:
    """Raises TapertuneError for what is no learning rate: 0 and less, NaN, infinity, ``MOST`` and more.

    Args:
        field: its name, for the message.
        value: to check.
        also: what else is allowed there, for the message.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and MOST <= value < math.inf:
        raise bad_value(field, value, f"a number above 0 and below {MOST}{also}")
    if not number or not 0 < value < math.inf:
        raise bad_value(field, value, f"a number above 0{also}")


UNMEASURED = RateRule(rate=1e-3, slowest=1e-4, fastest=1e-2, source="LoRA's usual rates; nothing is measured")


class SuggestedRate(float):
    """A learning rate that knows why it is what it is.

    Attributes:
        low, high: the rates between which the method learned, carried over to this run.
        reasons: what the rule looked at, a few words each.
        source: where its constants come from.
    """

    low: float
    high: float
    reasons: tuple[str, ...]
    source: str

    def __new__(cls, rate: float, low: float, high: float, reasons: tuple[str, ...] = (), source: str = "") -> Any:
        made = super().__new__(cls, rate)
        made.low, made.high, made.reasons, made.source = low, high, reasons, source
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return float(self), self.low, self.high, self.reasons, self.source

    def explain(self) -> str:
        """The rate, why, and where that comes from, in one line."""
        why = f" for {', '.join(self.reasons)}" if self.reasons else ""
        return f"{written(self)}{why}; learned from {written(self.low)} to {written(self.high)} ({self.source})"

    def doubt(self, rate: float, name: str) -> str | None:
        """What to say of a rate that is far from this one: one line, or None within the bounds.

        Args:
            rate: that is to be used.
            name: of what learns.
        """
        if self.low <= rate <= self.high:
            return None
        side = "less" if rate < self.low else "more"
        return (
            f"learning rate {written(rate)} is far {side} than {name} learned at in runs like this one,"
            f" {written(self.low)} to {written(self.high)}: it may learn nothing; try {written(self)} (auto)"
        )


def suggested(
    rule: RateRule, settings: Any, defaults: Any, *, name: str, width: int, steps: int, batch: int
) -> SuggestedRate:
    """What a rule says of a run.

    Args:
        rule: the method's.
        settings, defaults: of the method; None where it has none.
        name: the method's.
        width: hidden width of the model.
        steps: optimizer steps of the run.
        batch: rows of a step.
    """
    length = min(max(steps, _SHORTEST), _LONGEST)
    factor = (max(width, WIDTH) / WIDTH) ** -rule.width * (length / STEPS) ** -rule.length
    factor *= math.sqrt(min(batch, BATCH) / BATCH)
    strength = rule.gain(settings) / rule.gain(defaults)
    factor *= strength**-rule.power
    reasons = [name, f"hidden width {width}", f"{steps} steps of {batch} rows"]
    if not math.isclose(strength, 1):
        reasons.append(f"an update {strength:.3g} times as strong as by default")
    rate, low, high = (rounded(each * factor) for each in (rule.rate, rule.slowest, rule.fastest))
    return SuggestedRate(rate, low, high, tuple(reasons), rule.source)


def rounded(rate: float) -> float:
    """To two digits.

    >>> rounded(0.0012345)
    0.0012
    """
    return float(f"{rate:.1e}")


def written(rate: float) -> str:
    """As run files write it.

    >>> written(0.0012), written(0.03)
    ('1.2e-3', '3e-2')
    """
    digits, _, exponent = f"{rate:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"
