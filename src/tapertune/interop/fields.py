"""Fields of a JSON file from elsewhere, checked against the types that they should have."""

from __future__ import annotations

import functools
import json
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import bad_value, shown

_LONGEST_SHOWN = 80
_PLAIN = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "an object",
    list: "a list", set: "a list", type(None): "null",
}  # fmt: skip


def check_type(path: Path, name: str, value: Any, hint: Any) -> None:
    """Raises TapertuneError naming file, field and value where the value is not what JSON makes of the type.

    Args:
        path: of the file.
        name: of the field.
        value: as JSON gives it.
        hint: the field's type; for a type that pydantic cannot check, such as a class of settings, any object is taken.
    """
    try:
        _adapter(hint).validate_json(json.dumps(value), strict=True)
    except (ValidationError, RecursionError) as error:
        text = shown(value)
        short = value if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
        raise bad_value(f"{path}: {name}", short, describe(hint)) from error


@functools.lru_cache(maxsize=256)
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_json_hint(hint), config=ConfigDict(allow_inf_nan=False))


def describe(hint: Any) -> str:
    """A type in words; those of an ``Annotated`` one are its description.

    >>> describe(list[str] | None)
    'a list or null'
    """
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    return " or ".join(dict.fromkeys(_describe(part) for part in options))


def _describe(part: Any) -> str:
    origin = typing.get_origin(part)
    if origin is typing.Annotated:
        return next(more.description for more in part.__metadata__ if getattr(more, "description", None))
    if origin is typing.Literal:
        return " or ".join(map(repr, typing.get_args(part)))
    return _PLAIN.get(origin or part, "text")


def _json_hint(hint: Any) -> Any:
    """The type with classes that JSON holds as text or as an object made these."""
    if _is_union(hint):
        return typing.Union[tuple(_json_hint(part) for part in typing.get_args(hint))]  # noqa: UP007 (made at run time)
    origin = typing.get_origin(hint)
    if origin is not None or hint in (int, float, bool, str, dict, list, set, type(None), Any):
        return hint
    return str if isinstance(hint, type) and issubclass(hint, str) else dict


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)
