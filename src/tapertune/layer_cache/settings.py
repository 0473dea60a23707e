"""What a cache of layers may take, and what may be switched off for it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TapertuneError, bad_value, unknown

DTYPES = ("auto", "bfloat16")
DROPOUTS = ("keep", "off")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*?)B?\s*")
_MOST = 1 << 62


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Settings of a cache of what enters the lowest layer that trains.

    Attributes:
        memory: bytes of rows kept in memory: a whole number, or a text such as ``2GiB``.
        disk: bytes of rows kept in a file beyond these; 0: no file.
        dtype: ``auto``: rows are kept as they are. ``bfloat16``: rounded to 8 bits of precision, in half the bytes of
            float32; a model then trains on what is rounded, whether a row was kept or not.
        folder: where the file is, so that a later run over the same frozen layers finds its rows; None: a temporary
            file, gone with the run.
        dropout: of the layers that are frozen: ``keep`` it, and refuse a model that has any, or ``off``.
        layers: path of the model's list of layers, such as ``model.layers``; None: as the architecture has it.

    Raises:
        TapertuneError: a value that is none of these.
    """

    memory: int | str = "2GiB"
    disk: int | str = 0
    dtype: str = "auto"
    folder: str | None = None
    dropout: str = "keep"
    layers: str | None = None

    def __post_init__(self) -> None:
        for name in ("memory", "disk"):
            object.__setattr__(self, name, in_bytes(f"cache.{name}", getattr(self, name)))
        for name, allowed in (("dtype", DTYPES), ("dropout", DROPOUTS)):
            if getattr(self, name) not in allowed:
                raise unknown(f"cache.{name}", getattr(self, name), allowed)
        for name, what in (("folder", "the path of a folder"), ("layers", "the path of a list of layers")):
            value = getattr(self, name)
            if isinstance(value, Path):
                object.__setattr__(self, name, str(value))
            elif value is not None and not (isinstance(value, str) and value.strip() and "\0" not in value):
                raise bad_value(f"cache.{name}", value, f"{what}, or null")
        if self.folder is not None and not self.disk_bytes:
            raise TapertuneError("cache.folder needs cache.disk: how much may be kept there, such as 20GiB")

    @property
    def memory_bytes(self) -> int:
        return int(self.memory)

    @property
    def disk_bytes(self) -> int:
        return int(self.disk)


def cache_settings(given: CacheSettings | Mapping[str, Any] | bool | None) -> CacheSettings | None:
    """Settings from what a user gives: settings, a mapping of their fields, true for the defaults, or nothing.

    Raises:
        TapertuneError: something else, an unknown field (the nearest is named) or a wrong value.

    >>> cache_settings({"memory": "1MiB"}).memory_bytes
    1048576
    """
    if given is None or given is False:
        return None
    if isinstance(given, CacheSettings):
        return given
    if given is True:
        return CacheSettings()
    if not isinstance(given, Mapping):
        raise bad_value("cache", given, "a block of settings, true or false")
    names = [field.name for field in dataclasses.fields(CacheSettings)]
    for key in given:
        if key not in names:
            raise unknown("setting", f"cache.{key}", [f"cache.{name}" for name in names])
    return CacheSettings(**given)


def in_bytes(field: str, value: Any) -> int:
    """A size in bytes.

    Raises:
        TapertuneError: neither a whole number nor a number with a unit.

    >>> in_bytes("disk", "1.5KiB"), in_bytes("disk", 7), in_bytes("disk", "2 GB")
    (1536, 7, 2000000000)
    """
    wanted = "a number of bytes, 0 or more, or one with a unit, such as 2GiB or 500MB"
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise bad_value(field, value, wanted)
    unit = match[2].upper()
    factor = _UNITS.get(unit if not unit else f"{unit}B")
    size = 0.0 if factor is None else float(match[1]) * factor
    if factor is None or size >= _MOST:
        raise bad_value(field, value, wanted)
    return int(size)
