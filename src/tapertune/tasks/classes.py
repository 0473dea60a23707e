"""The classes of a task: how labels are spelled in files, and which class a label is. Standard library only."""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Label = str | int | float | bool  # as a file has it

_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")
_EXACT = 2**53  # beyond it a float is not every whole number
_DIGITS = 40  # a longer text is not compared as a number


def spellings(value: Any) -> tuple[str, ...]:
    """How a label may be spelled as the name of a class, the first as it is written. Nothing for what is no label.

    A text is spelled as it stands, so that ``02134`` and ``2134`` are two classes. Numbers and truth values that are
    not text (JSON, Parquet) are the same whether one file has 1 and another 1.0.

    >>> spellings("01"), spellings(1), spellings(1.0), spellings(True), spellings(None), spellings(0.5)
    (('01',), ('1', '1.0'), ('1.0', '1'), ('true', 'True', 'TRUE'), (), ())
    """
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    if isinstance(value, bool):
        name = str(value)
        return name.lower(), name, name.upper()
    if isinstance(value, int):
        return (str(value), str(float(value))) if abs(value) < _EXACT else (str(value),)
    if isinstance(value, float):
        if not value.is_integer():
            return ()
        return (str(value), str(int(value))) if abs(value) < _EXACT else (str(value),)
    if isinstance(value, Decimal):
        return (str(value),)
    if isinstance(value, datetime.date | datetime.time):  # datetime is a date
        return (value.isoformat(),)
    return ()


def written(value: Any) -> Label:
    """A label as predictions have it: what JSON has in its own form, else its text."""
    return value if isinstance(value, str | int | float) else spellings(value)[0]


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Class names that can be looked up.

    Attributes:
        index: the number of each name.
        numeric: some name is a number, so that a number is a name and no position.
    """

    index: dict[str, int]
    numeric: bool

    @classmethod
    def of(cls, names: Sequence[str]) -> Classes:
        return cls(
            index={name: number for number, name in enumerate(names)},
            numeric=any(_NUMBER.fullmatch(name.strip()) for name in names),
        )

    def number(self, value: Any) -> int | None:
        """The class of a label that is a name, or None."""
        return next((self.index[name] for name in spellings(value) if name in self.index), None)


def in_order(names: Iterable[str]) -> list[str]:
    """Numbers in their own order (2 before 10), then other names. Numbers with zeros before them are names.

    >>> in_order(["b", "10", "2", "a", "02"])
    ['2', '10', '02', 'a', 'b']
    """

    def key(name: str) -> tuple[bool, Decimal, str]:
        plain = len(name) <= _DIGITS and re.fullmatch(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?", name)
        return not plain, Decimal(name if plain else 0), name

    return sorted(names, key=key)


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ only in white space or case, or in how a number is written.

    >>> alike(["yes", "no", " Yes", "1", "01", "1.0"])
    [('yes', ' Yes'), ('1', '01'), ('1', '1.0')]
    """
    first: dict[str, str] = {}
    return [(first[folded], name) for name in names if first.setdefault(folded := _folded(name), name) != name]


def _folded(name: str) -> str:
    plain = "".join(unicodedata.normalize("NFKC", name).split()).casefold()
    if len(plain) <= _DIGITS and _NUMBER.fullmatch(plain):
        return str(Decimal(plain).normalize() + 0)  # -0 is 0
    return plain
