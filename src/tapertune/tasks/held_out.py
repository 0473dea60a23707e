"""Rows of the training file that are held out for evaluation, where there is no file for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b

from ..errors import TapertuneError, bad_value
from .fields import Numbered
from .files import Table

_LARGEST = 2**64


def divide(table: Table, share: float) -> tuple[Table, Table]:
    """The rows to train on, and those that are held out: about that share, drawn by their numbers, the same each time.

    Args:
        table: the training rows.
        share: between 0 and 1.

    Raises:
        TapertuneError: another share; or, while reading, no row is left in one of the two.
    """
    if not 0 < share < 1:
        raise bad_value("task.validation", share, "a file, or a share of the training rows between 0 and 1")
    held = replace(table, name=f"{table.name} (held out)", read=_those(table, share, "to evaluate", _is_held(share)))
    kept = replace(table, read=_those(table, share, "to train on", lambda number: not _is_held(share)(number)))
    return kept, held


def _is_held(share: float) -> Callable[[int], bool]:
    return lambda number: int.from_bytes(blake2b(b"%d" % number, digest_size=8).digest(), "big") < share * _LARGEST


def _those(table: Table, share: float, use: str, chosen: Callable[[int], bool]) -> Callable[[], Numbered]:
    def read() -> Numbered:
        others = taken = 0
        for number, row in table.read():
            if chosen(number):
                taken += 1
                yield number, row
            else:
                others += 1
        if others and not taken:
            raise TapertuneError(
                f"task.validation is {share}: of the {others} rows of {table.name} that leaves none {use}"
            )

    return read
