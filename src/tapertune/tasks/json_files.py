"""Rows of JSON lines and of JSON files. What a row holds is what is written there, or it is no row."""

from __future__ import annotations

import json
import math
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import TapertuneError
from . import raw
from .fields import BadField, Numbered
from .nested import flattened

_DEEPEST = 100  # levels of nesting


def json_lines(path: Path) -> Numbered:
    """One object a line; a line that is none is an error in its place."""
    for number, line in raw.lines(path):
        if not line.strip():
            continue
        try:
            row = parsed(line.decode("utf-8").rstrip("\r\n"))
        except UnicodeDecodeError:
            yield number, BadField("not UTF-8 text")
            continue
        except json.JSONDecodeError as error:
            yield number, BadField(f"not JSON: {error.msg} (column {error.colno})")
            continue
        except BadField as error:
            yield number, error
            continue
        hint = "; a list of rows is read from a file that ends in .json" if isinstance(row, list) else ""
        wrong = f"it must be a JSON object, with a field a column{hint}"
        yield number, row if isinstance(row, dict) else BadField(wrong)


def json_rows(path: Path) -> Numbered:
    """A list of rows, alone or under ``data``; SQuAD's articles; or JSON lines. The file is read whole."""
    content = raw.whole(path)
    try:
        found = parsed(content.decode(json.detect_encoding(content)))
    except UnicodeDecodeError as error:
        raise TapertuneError(f"{path}: not UTF-8 text") from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # a second value behind the first
            yield from json_lines(path)
            return
        raise TapertuneError(f"{path}, line {error.lineno}: not JSON: {error.msg} (column {error.colno})") from error
    except BadField as error:
        raise TapertuneError(f"{path}: {error}") from error
    rows = found.get("data") if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise TapertuneError(f"{path}: it must hold a list of rows, or an object with one under 'data'")
    yield from enumerate(chain.from_iterable(map(flattened, rows)), 1)


def parsed(text: str) -> Any:
    r"""A JSON text's value.

    Raises:
        JSONDecodeError: it is not JSON.
        BadField: it is, but cannot be kept as it is written: two fields of one name, numbers too large, half of a
            character (``\ud800``), or deep nesting.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise BadField(_TOO_DEEP) from error
    except (json.JSONDecodeError, BadField):
        raise
    except ValueError as error:  # Python's limit of digits
        raise BadField("a number in it has too many digits") from error
    if text.count("[") + text.count("{") > _DEEPEST and _is_deep(value):
        raise BadField(_TOO_DEEP)
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise BadField(f"it holds half of a character ({half!r}), which is no text") from error
    return value


_TOO_DEEP = f"nested more than {_DEEPEST} levels deep"


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, list | dict)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return any(isinstance(each, list | dict) for each in level)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise BadField(f"two fields are called {twice!r}")
    return found


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        raise BadField(f"the number {shown} is too large")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number)
