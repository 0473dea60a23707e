"""Rows in a file: what memory has no room for, and what a later run finds again.

The file is read and written at places of it, not mapped: one that somebody else cuts short, or a disk that is full, is
an error here rather than the end of the process. An index beside it says which row is where, with a checksum of each
and the digest of what made it; a row that does not fit both is as if it were not there.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TapertuneError
from ..files import read_json_object, write_json

VERSION = 1
_KIND = "tapertune layer rows"


@dataclass(kw_only=True)
class Place:
    """Where a row is.

    Attributes:
        offset: in the file.
        shape: of the states.
        dtype: of the states, as torch names it.
        level: of the layer that they enter.
        digest: of what made them, or nothing in a file without a folder.
        checksum: of the bytes.
        is_checked: whether this process has written it, or checked it.
    """

    offset: int
    shape: list[int]
    dtype: str
    level: int
    digest: str = ""
    checksum: int = 0
    is_checked: bool = True


class RowFile:
    """A file of rows.

    Args:
        folder: where it is to be; None: a temporary file, gone when it is closed.
        number: of the process, which has a file of its own.

    Raises:
        TapertuneError: the folder cannot be made or written to, another run is using it, or it holds another kind of
            file by the same name.
    """

    def __init__(self, folder: str | None, number: int = 0) -> None:
        self.places: dict[bytes, Place] = {}
        self.end = 0
        self._index: Path | None = None
        if folder is None:
            with tempfile.TemporaryFile() as file:
                self._hold(os.dup(file.fileno()))
            return
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._hold(os.open(path / f"rows-{number}.bin", os.O_RDWR | os.O_CREAT, 0o666))
        except OSError as error:
            raise TapertuneError(f"cache.folder {folder!r} cannot be used: {error.strerror or error}") from error
        _lock(self._number, folder)
        self._index = path / f"rows-{number}.json"
        self._read_index(folder)

    def _hold(self, number: int) -> None:
        """Has an open file, by its number, until it is closed or nobody has it any more."""
        self._number, self.close = number, weakref.finalize(self, os.close, number)

    def _read_index(self, folder: str) -> None:
        """Takes over the rows of an earlier run. Those of an index that cannot be read are none."""
        assert self._index is not None, "only a folder has an index"
        size = os.fstat(self._number).st_size
        if size and os.pread(self._number, len(_HEADER), 0) != _HEADER:
            name = self._index.with_suffix(".bin").name
            raise TapertuneError(f"cache.folder {folder!r} holds {name}, which is no file of rows")
        saved: dict[str, Any] = {}
        with suppress(ValueError):
            saved = read_json_object(self._index) if self._index.exists() else {}
        if saved and saved.get("kind") != _KIND:
            raise TapertuneError(f"cache.folder {folder!r} holds {self._index.name}, which is no index of rows")
        with suppress(ValueError, TypeError, AttributeError):
            if saved.get("version") == VERSION:
                self.places = {bytes.fromhex(key): _place(place, size) for key, place in saved.get("rows", {}).items()}
        if not self.places:
            self.clear()
        self.end = max([len(_HEADER), *(place.offset + size_of(place) for place in self.places.values())])

    def read(self, key: bytes) -> Tensor | None:
        """A row's states; None, and the row is forgotten, where they cannot be read or are not what was written."""
        place = self.places[key]
        data = bytearray(size_of(place))
        try:
            count = os.preadv(self._number, [data], place.offset)
        except OSError:
            count = -1
        if count != len(data) or (not place.is_checked and zlib.crc32(data) != place.checksum):
            del self.places[key]
            return None
        place.is_checked = True
        return torch.frombuffer(data, dtype=getattr(torch, place.dtype)).view(place.shape)

    def write(self, key: bytes, states: Tensor, level: int, digest: str) -> None:
        """Writes a row, in its old place where it has one of the size.

        Raises:
            OSError: the disk is full, or gone.
        """
        data = memoryview(states.contiguous().reshape(-1).view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]
        old = self.places.pop(key, None)  # a row that is written half is none
        offset = old.offset if old is not None and size_of(old) == len(data) else self.end
        done = 0
        while done < len(data):
            done += os.pwrite(self._number, data[done:], offset + done)
        checksum = zlib.crc32(data) if self._index is not None else 0
        dtype = str(states.dtype).removeprefix("torch.")
        self.places[key] = Place(offset=offset, shape=list(states.shape), dtype=dtype, level=level, digest=digest,
                                 checksum=checksum)  # fmt: skip
        self.end = max(self.end, offset + len(data))

    def clear(self) -> None:
        """Forgets all rows, and gives their room back."""
        self.places = {}
        with suppress(OSError):
            os.ftruncate(self._number, 0)
            if self._index is not None:
                os.pwrite(self._number, _HEADER, 0)
        self.end = 0 if self._index is None else len(_HEADER)

    def save(self) -> None:
        """Writes the index, so that the rows are found again.

        Raises:
            OSError: the disk is full, or gone.
        """
        if self._index is not None and self.close.alive:
            fields = ("offset", "shape", "dtype", "level", "digest", "checksum")
            rows = {k.hex(): {f: asdict(place)[f] for f in fields} for k, place in self.places.items()}
            write_json(self._index, {"kind": _KIND, "version": VERSION, "rows": rows})


_HEADER = json.dumps({"kind": _KIND, "version": VERSION}).encode().ljust(128) + b"\n"


def size_of(place: Place) -> int:
    """Bytes of a row."""
    count = 1
    for width in place.shape:
        count *= width
    return count * torch.empty(0, dtype=getattr(torch, place.dtype)).element_size()


def _place(saved: Any, size: int) -> Place:
    """A row of an index.

    Raises:
        ValueError: it cannot be one, or lies beyond the file's end.
    """
    place = Place(**saved, is_checked=False)
    shape, numbers = place.shape, (place.offset, place.level, place.checksum)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (*shape, *numbers))
    dtype = getattr(torch, str(place.dtype), None)
    if not whole or not isinstance(dtype, torch.dtype) or not isinstance(place.digest, str):
        raise ValueError
    if place.offset < len(_HEADER) or place.offset + size_of(place) > size:
        raise ValueError
    return place


def _lock(file: int, folder: str) -> None:
    """Raises TapertuneError where another process has the file."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise TapertuneError(f"cache.folder {folder!r} is in use by another run") from error
