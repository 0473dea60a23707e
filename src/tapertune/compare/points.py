"""What is screened for a row: every learning rate, or an equal number of trials of rate and settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scipy.stats import qmc

from .grid import Grid


@dataclass(frozen=True, kw_only=True)
class Point:
    """A learning rate, and settings that the row's ``search`` changes, by dotted name."""

    rate: float
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        return ", ".join([f"rate {short(self.rate)}", *(f"{name} {value}" for name, value in self.changes)])


def short(rate: float) -> str:
    """A learning rate as it is written in run files.

    >>> short(3e-05), short(0.00018), short(0.01)
    ('3e-5', '1.8e-4', '1e-2')
    """
    digits, _, exponent = f"{rate:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def points_of(grid: Grid, row: str) -> list[Point]:
    """The points of a row: its rates, or ``trials`` points spread evenly over its rates and its ``search``.

    Trials come from a Halton sequence (low discrepancy, the same wherever it is drawn): log-uniform between the least
    and the largest rate, and evenly over each list of values.
    """
    rates = grid.rates_of(row)
    if grid.trials is None:
        return [Point(rate=rate) for rate in rates]
    search = grid.rows[row].search
    places = qmc.Halton(d=1 + len(search), scramble=False).random(grid.trials + 1)[1:]  # the first is the corner
    low, high = math.log(rates[0]), math.log(rates[-1])
    return [
        Point(
            rate=float(f"{math.exp(low + (high - low) * place[0]):.1e}"),
            changes=tuple(
                (name, values[min(int(share * len(values)), len(values) - 1)])
                for (name, values), share in zip(search.items(), place[1:], strict=True)
            ),
        )
        for place in places
    ]
