"""What a run may take at most: memory, parameters, minutes, as people write them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..errors import TapertuneError

_BYTES = {f"{prefix}b": 1000**power for power, prefix in enumerate(("", "k", "m", "g", "t"))} | {
    f"{prefix}ib": 1024**power for power, prefix in enumerate(("k", "m", "g", "t"), 1)
}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_MINUTES = {"": 1.0, "min": 1.0, "minutes": 1.0, "h": 60.0, "hours": 60.0, "s": 1 / 60}
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+|[0-9]+\.)\s*([a-z]*)\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """At most so much; None is no bound.

    Attributes:
        memory: bytes.
        parameters: that train in the adapter, as a mean over the steps.
        minutes: of training and evaluating.
    """

    memory: int | None = None
    parameters: int | None = None
    minutes: float | None = None

    @property
    def given(self) -> bool:
        return (self.memory, self.parameters, self.minutes) != (None, None, None)


def read_memory(text: str, field: str = "--memory") -> int:
    """Bytes. ``GB`` is a thousand million, ``GiB`` 2^30; capital letters and spaces do not matter.

    >>> read_memory("24GiB") == read_memory("24 gib"), read_memory("24GB")
    (True, 24000000000)

    Raises:
        TapertuneError: it is no number above 0 with a unit.
    """
    return round(_read(text, field, _BYTES, "a size above 0 such as 24GiB or 24GB"))


def read_count(text: str, field: str = "--parameters") -> int:
    """A number of parameters; k, M and B stand for a thousand, a million and a thousand million.

    >>> read_count("0.2M"), read_count("0.2m"), read_count("150000")
    (200000, 200000, 150000)

    Raises:
        TapertuneError: it is no number above 0.
    """
    return round(_read(text, field, _COUNTS, "a number above 0 such as 0.2M or 150000"))


def read_minutes(text: str, field: str = "--minutes") -> float:
    """Minutes, or with ``h`` hours, with ``s`` seconds.

    >>> read_minutes("30"), read_minutes("1.5h"), read_minutes("90 s")
    (30.0, 90.0, 1.5)

    Raises:
        TapertuneError: it is no time above 0.
    """
    return _read(text, field, _MINUTES, "minutes above 0 such as 30, or 2h")


def _read(text: str, field: str, units: dict[str, float] | dict[str, int], allowed: str) -> float:
    match = _NUMBER.fullmatch(text)
    unit = match[2].lower() if match else ""
    value = float(match[1]) * units[unit] if match and unit in units else 0.0
    if match and unit and unit not in units:
        names = ", ".join(name for name in units if name)
        near = next((name for name in units if name.startswith(unit)), None)
        hint = f"did you mean {match[1]}{near.upper() if field == '--memory' else near}? " if near else ""
        raise TapertuneError(f"{field} is {text!r}: no unit is called {match[2]!r}; {hint}Allowed: {names}")
    if not 0 < value < math.inf:
        raise TapertuneError(f"{field} is {text!r}; it must be {allowed}")
    return value


def in_words(count: float) -> str:
    """Bytes in the unit of a binary kind that leaves three digits.

    >>> in_words(812 * 2**20), in_words(13.4 * 2**30), in_words(700)
    ('812 MiB', '13.4 GiB', '700 B')
    """
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            value = count / 1024**power
            return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
    return f"{count:.0f} B"
