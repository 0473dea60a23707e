"""Errors that a user can act on: the field, the value, what is allowed, the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterable

from .synonyms import meant, nearest, nearest_setting

__all__ = ["TapertuneError", "UnknownField", "bad_value", "nearest", "unknown"]


class TapertuneError(ValueError):
    """What the user gave cannot be used. The command exits with 2 and prints the message on one line."""


class UnknownField(TapertuneError, TypeError):
    """A keyword that a config does not have; a TypeError as well, as for any class that is called with one."""


def unknown(
    what: str,
    value: object,
    allowed: Iterable[str],
    *,
    settings: Iterable[str] | None = None,
    kind: type[TapertuneError] = TapertuneError,
) -> TapertuneError:
    """The error for a value that is not one of a closed set of names.

    Args:
        what: it is, such as ``method``.
        value: what was given.
        allowed: the names.
        settings: where it is a setting, all that there are, by dotted names: the hint may be one of another block.
        kind: the class of the error.

    >>> print(unknown("method", "aflroa", ["lora", "aflora"]))
    unknown method 'aflroa': did you mean 'aflora'? Allowed: aflora, lora
    """
    names = sorted(allowed)
    guess = meant(str(value), names) if settings is None else nearest_setting(str(value), settings)
    hint = f"did you mean {guess!r}? " if guess else ""
    return kind(f"unknown {what} {value!r}: {hint}Allowed: {', '.join(names)}")


def bad_value(field: str, value: object, allowed: str) -> TapertuneError:
    """The error for a value outside its range.

    >>> print(bad_value("r", 0, "a positive whole number"))
    r is 0; it must be a positive whole number
    """
    return TapertuneError(f"{field} is {value!r}; it must be {allowed}")
