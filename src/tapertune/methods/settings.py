"""What methods' settings share: fields with help and a check, and checks that name the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import bad_value, unknown

Check = Callable[[str, Any], None]
"""Called with a field's name and value; raises TapertuneError for a value that it may not have."""


LARGEST_RANK = 1 << 20
_LARGEST = 1 << 63


def allows(**schema: Any) -> Callable[[Check], Check]:
    """Says of a check what it allows as JSON schema does, for editors of run files."""

    def mark(check: Check) -> Check:
        check.schema = schema  # type: ignore[attr-defined]
        return check

    return mark


@allows(type="integer", minimum=1, maximum=LARGEST_RANK)
def positive_int(field: str, value: Any) -> None:
    """A rank, or another width of a matrix."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise bad_value(field, value, "a positive whole number")
    if value > LARGEST_RANK:
        raise bad_value(field, value, f"a positive whole number of at most {LARGEST_RANK:,}")


@allows(type="integer", minimum=0)
def natural_int(field: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _LARGEST:
        raise bad_value(field, value, "a whole number of at most 63 bits, zero or more")


@allows(type="boolean")
def flag(field: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise bad_value(field, value, "true or false")


@allows(type="number", exclusiveMinimum=0)
def positive(field: str, value: Any) -> None:
    if not _is_number(value) or not 0 < value < float("inf"):
        raise bad_value(field, value, "a positive number")


@allows(type="number")
def finite(field: str, value: Any) -> None:
    if not _is_number(value) or not abs(value) < float("inf"):
        raise bad_value(field, value, "a finite number")


@allows(type="number", minimum=0)
def not_negative(field: str, value: Any) -> None:
    finite(field, value)
    if value < 0:
        raise bad_value(field, value, "zero or positive")


@allows(type="number", minimum=0, exclusiveMaximum=1)
def probability(field: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value < 1:
        raise bad_value(field, value, "a number from 0 up to, but not including, 1")


@allows(type="number", minimum=0, maximum=1)
def share(field: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value <= 1:
        raise bad_value(field, value, "a number from 0 to 1")


@allows(type="integer", minimum=1)
def steps(field: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < _LARGEST:
        raise bad_value(field, value, "a positive whole number of steps")


@allows(anyOf=[{"type": "integer", "minimum": 0}, {"type": "number", "minimum": 0, "maximum": 1}])
def duration(field: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value < _LARGEST or (isinstance(value, float) and value > 1):
        raise bad_value(field, value, "a whole number of steps, or a fraction of the run from 0.0 to 1.0")


def one_of(names: Sequence[str]) -> Check:
    """A check that allows these names; its error suggests the nearest."""

    @allows(enum=list(names))
    def check(field: str, value: Any) -> None:
        if not isinstance(value, str) or value not in names:
            raise unknown(field, value, names)

    return check


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float holds."""
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
    )


def setting(default: Any, help: str, check: Check | None = None) -> Any:
    """A dataclass field, from which configs and the command's help are made.

    Args:
        default: its default.
        help: its documentation, in one line.
        check: of its value, where its type alone does not say what is allowed.
    """
    return dataclasses.field(default=default, metadata={"help": help, "check": check})


def dropout_setting() -> Any:
    """The field ``dropout``, which every method has."""
    text = "probability of dropping an element of the adapter's input, to the nearest 1/128"
    return setting(0.0, text, probability)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a method, which check themselves.

    Raises:
        TapertuneError: a field has a value that its check refuses.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check = field.metadata.get("check")
            if check is not None:
                check(field.name, getattr(self, field.name))


@dataclass(frozen=True, kw_only=True)
class LowRankSettings(Settings):
    """What most methods have."""

    r: int = setting(8, "rank of the update", positive_int)
    lora_alpha: float = setting(16, "the update is scaled by lora_alpha / r", positive)
    dropout: float = dropout_setting()
