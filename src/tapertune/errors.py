"""Errors that a user can act on: the field, the value, what is allowed, the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .synonyms import meant, nearest, nearest_setting

__all__ = ["TapertuneError", "UnknownField", "bad_value", "nearest", "printable", "shown", "unknown"]

_LONGEST = 200  # characters of a value in a message
_NOT_SHOWN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


class TapertuneError(ValueError):
    """What the user gave cannot be used. The command exits with 2 and prints the message on one line.

    Texts of files may be in it: line ends become spaces, and what no terminal should be sent (escape sequences, halves
    of characters) its number.

    >>> print(TapertuneError("no file 'a\\nb\\ud800'"))
    no file 'a b\\ud800'
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """A text on one line, with what cannot be printed as its number."""
    line = re.sub(r"\s*[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+\s*", " ", text)
    return _NOT_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), line)


def shown(value: object) -> str:
    """A value as a message has it: as Python writes it, cut where it is long.

    >>> shown([1, "a"]), len(shown("x" * 10**7))
    ("[1, 'a']", 200)
    """
    try:
        text = repr(value[:_LONGEST] if isinstance(value, str | bytes | list | tuple) else value)
    except (RecursionError, ValueError):  # nested deeply; a number of thousands of digits
        return f"a {type(value).__name__} that is too large to be shown"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


class UnknownField(TapertuneError, TypeError):
    """A keyword that a config does not have; a TypeError as well, as for any class that is called with one."""


def unknown(
    what: str,
    value: object,
    allowed: Iterable[str],
    *,
    settings: Iterable[str] | None = None,
) -> TapertuneError:
    """The error for a value that is not one of a closed set of names.

    Args:
        what: it is, such as ``method``.
        value: what was given.
        allowed: the names.
        settings: where it is a setting, all that there are, by dotted names: the hint may be one of another block.

    >>> print(unknown("method", "aflroa", ["lora", "aflora"]))
    unknown method 'aflroa': did you mean 'aflora'? Allowed: aflora, lora
    """
    names = sorted(allowed)
    guess = None
    if isinstance(value, str):
        typed = value[:_LONGEST]
        guess = meant(typed, names) if settings is None else nearest_setting(typed, settings)
    hint = f"did you mean {guess!r}? " if guess else ""
    return TapertuneError(f"unknown {what} {shown(value)}: {hint}Allowed: {', '.join(names)}")


def bad_value(field: str, value: object, allowed: str) -> TapertuneError:
    """The error for a value outside its range.

    >>> print(bad_value("r", 0, "a positive whole number"))
    r is 0; it must be a positive whole number
    """
    return TapertuneError(f"{field} is {shown(value)}; it must be {allowed}")
