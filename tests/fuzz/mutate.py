"""Values and bytes made wrong at random, with what was changed, so that it can be judged."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from typing import Any

from interop.damage import WRONG, spots

_MORE: tuple[Any, ...] = (
    float("inf"), -1e308, 2**31, 2**63, 2**64, -(2**70), 1e-320, 100_000, 0.5, False, "\0", "\u202e", "é" * 70,
    "\x1b[31m", "<script>", "```\n# x", "| a |", "1e400", "nan", "0", "-1", [0], [0] * 50, [-1, 1e400], ["a", "a"],
    {"": None}, {"0": 0}, [[[[[[[[]]]]]]]],
)  # fmt: skip
VALUES = (*WRONG, *_MORE)
_DEEP = "--deep--"


@dataclass(frozen=True)
class Change:
    """One place of a JSON value changed: its path, and what stood and stands there. ``how`` is ``replace``, ``delete``
    or ``rename``."""

    how: str
    path: tuple[Any, ...]
    old: Any
    new: Any

    def __str__(self) -> str:
        where = ".".join(map(str, self.path))[-120:]
        return f"{self.how} {where!r} from {repr(self.old)[:60]} to {repr(self.new)[:60]}"

    @property
    def is_wrong(self) -> bool:
        """Whether no field that held the old value can hold the new one: another type (null apart, which many fields
        allow), or a number that is none."""
        return self.how == "replace" and is_wrong(self.old, self.new)


def is_wrong(old: Any, new: Any) -> bool:
    """Whether a field that held ``old`` cannot hold ``new``.

    >>> is_wrong(3, "3"), is_wrong(3, 4), is_wrong(True, 1), is_wrong("a", None), is_wrong(0.5, float("nan"))
    (True, False, True, False, True)
    """
    if old is None or new is None:
        return False
    number = isinstance(old, int | float) and not isinstance(old, bool)
    if number:
        if isinstance(new, bool) or not isinstance(new, int | float):
            return True
        return math.isnan(new) if isinstance(new, float) else False
    return type(old) is not type(new)


def change_json(value: Any, rng: random.Random, among: list[tuple[Any, ...]] | None = None) -> tuple[Any, Change]:
    """A copy of a JSON value with one place changed.

    Args:
        value: an object or a list with something in it.
        rng: draws.
        among: the places to choose from; all of them by default.
    """
    value = json.loads(json.dumps(value))
    path = rng.choice(among or spots(value)[1:])
    *way, last = path
    owner = value
    for key in way:
        owner = owner[key]
    old = owner[last]
    kind = rng.random()
    if kind < 0.1 and isinstance(owner, dict):
        del owner[last]
        return value, Change("delete", path, old, None)
    if kind < 0.15 and isinstance(owner, dict):
        name = rng.choice(["", "../x", "\ud800", "peft_type", "__class__", "r", "name", str(last).upper()])
        owner[name] = owner.pop(last)
        return value, Change("rename", path, old, name)
    owner[last] = new = _DEEP if kind > 0.98 else rng.choice(VALUES)
    return value, Change("replace", path, old, [] if new == _DEEP else new)


def is_deep(value: Any) -> bool:
    """Whether ``as_text`` will nest what ``change_json`` made: as it is, it holds a word in that place."""
    return f'"{_DEEP}"' in json.dumps(value)


def as_text(value: Any, rng: random.Random) -> str:
    """JSON text of what ``change_json`` made; where it asked for depth, hundreds or thousands of levels of it."""
    text = json.dumps(value)
    if f'"{_DEEP}"' in text:
        levels = rng.choice([150, 2000, 50_000])
        opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
        text = text.replace(f'"{_DEEP}"', opening * levels + "1" + closing * levels)
    return text


def change_bytes(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Other bytes, a part left out, twice or moved, or the file cut short."""
    if not content:
        return b"\x00", "a byte in an empty file"
    kind, at = rng.randrange(7), rng.randrange(len(content))
    if kind == 0:
        return content[:at], f"cut at {at}"
    if kind == 1:
        stop = min(len(content), at + rng.choice([1, 4, 64]))
        return content[:at] + content[stop:], f"bytes {at} to {stop} left out"
    if kind == 2:
        stop = min(len(content), at + rng.choice([1, 16, 256]))
        return content[:stop] + content[at:], f"bytes {at} to {stop} twice"
    if kind == 3:
        more = rng.choice(
            [b"\xff", b"\x00", b"\xed\xa0\x80", b"\n", b'"', b"{", b"[" * 3000, b"\xef\xbb\xbf", b"\r", b","]
        )
        return content[:at] + more + content[at:], f"{more[:8]!r} put in at {at}"
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8, 32])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed), f"bytes changed, first at {next((i for i, b in enumerate(changed) if b != content[i]), 0)}"
