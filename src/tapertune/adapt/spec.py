"""Pieces of a plan as plain dictionaries: ``{"kind": "cubic", "warmup": 0.05}`` and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import TapertuneError, bad_value, unknown

T = TypeVar("T", bound=type)
_LARGEST = 1 << 63
_KINDS: dict[str, tuple[type, str | None]] = {}


def spec(kind: str, *, nested: str | None = None) -> Callable[[T], T]:
    """Registers a frozen dataclass under a kind; ``nested`` names a field that holds further pieces."""

    def register(cls: T) -> T:
        assert kind not in _KINDS, f"two pieces are called {kind}"
        _KINDS[kind] = (cls, nested)
        return cls

    return register


def kind_of(cls: type) -> str:
    """The kind under which a class is registered."""
    return next(kind for kind, (known, _) in _KINDS.items() if known is cls)


def to_dict(piece: Any) -> dict[str, Any]:
    """The piece as a dictionary of JSON values."""
    kind = kind_of(type(piece))
    nested = _KINDS[kind][1]
    out: dict[str, Any] = {"kind": kind}
    for field in dataclasses.fields(piece):
        value = getattr(piece, field.name)
        out[field.name] = [to_dict(part) for part in value] if field.name == nested else _as_json(value)
    return out


def _as_json(value: Any) -> Any:
    """A value as JSON gives it back: tuples as lists, however deep."""
    return [_as_json(part) for part in value] if isinstance(value, tuple | list) else value


def from_dict(what: str, kinds: tuple[type, ...], data: Any) -> Any:
    """The piece that a dictionary describes.

    Args:
        what: the place in the plan, for messages: ``schedule``.
        kinds: the classes allowed there.
        data: the dictionary.

    Raises:
        TapertuneError: no dictionary, an unknown kind or field (nearest suggested), or a value out of range.
    """
    if not isinstance(data, Mapping):
        raise bad_value(what, data, "a mapping with a kind")
    allowed = {kind: cls for kind, (cls, _) in _KINDS.items() if cls in kinds}
    rest = dict(data)
    if "kind" not in rest:
        raise _without_kind(what, rest, allowed)
    kind = rest.pop("kind")
    if not isinstance(kind, str) or kind not in allowed:
        raise unknown(f"{what}.kind", kind, allowed)
    cls, nested = _KINDS[kind]
    names = [field.name for field in dataclasses.fields(cls)]
    for key in rest:
        if key not in names:
            raise unknown(f"field of {what} ({kind})", key, names)
    if nested is not None:
        parts = rest.get(nested)
        if not isinstance(parts, list | tuple):
            raise bad_value(f"{what}.{nested}", parts, "a list of mappings")
        rest[nested] = tuple(from_dict(f"{what}.{nested}", kinds, part) for part in parts)
    try:
        return cls(**rest)
    except TypeError as error:
        raise TapertuneError(f"{what} ({kind}): {error}") from error


def _without_kind(what: str, rest: Mapping[str, Any], allowed: Mapping[str, type]) -> TapertuneError:
    """The error for a piece of no kind, of which the method's plan has no piece that it could change either."""
    fields = dict.fromkeys(field.name for cls in allowed.values() for field in dataclasses.fields(cls))
    for key in rest:
        if key not in fields:
            return unknown(f"field of {what}", key, ["kind", *fields])
    return TapertuneError(f"{what} has no kind. Allowed: {', '.join(sorted(allowed))}")


def check_range(field: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raises TapertuneError for what is no finite number from ``low`` to ``high``."""
    number = isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
    )
    if not number or not low <= value <= high or math.isinf(value):
        wanted = f"a number from {low:g} to {high:g}" if math.isfinite(high) else f"a finite number, {low:g} or more"
        raise bad_value(field, value, wanted)


def check_count(field: str, value: Any, of: str = "") -> None:
    """Raises TapertuneError for what is no positive whole number (``of``: of what, such as " of steps")."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < _LARGEST:
        raise bad_value(field, value, f"a positive whole number{of}")


def check_flag(field: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise bad_value(field, value, "true or false")


def check_name(field: str, value: Any) -> None:
    if not isinstance(value, str):
        raise bad_value(field, value, "a factor's name")


def factor_names(field: str, value: Any) -> tuple[str, ...]:
    """A list of factors' names as a tuple.

    Raises:
        TapertuneError: something else, such as one name by itself.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise bad_value(field, value, "a list of factor names")
    return tuple(value)
