"""Rows by key: in memory up to a limit, then in a file up to another."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .file import RowFile
from .settings import CacheSettings


@dataclass
class _Kept:
    """A row in memory."""

    states: Tensor
    level: int
    digest: str


class Store:
    """What is kept of rows.

    Args:
        settings: its limits and number type.
        say: told in a line that no further rows are kept.
        number: of the process.

    Raises:
        TapertuneError: as ``RowFile``.
    """

    def __init__(self, settings: CacheSettings, say: Callable[[str], None], number: int = 0) -> None:
        self.settings, self._say = settings, say
        self._memory: dict[bytes, _Kept] = {}
        self.memory_bytes = 0
        self.peak_bytes = 0
        self._file = RowFile(settings.folder, number) if settings.disk_bytes or settings.folder else None
        self._full = False

    @property
    def rows(self) -> int:
        return len(self._memory.keys() | (set() if self._file is None else self._file.places.keys()))

    @property
    def disk_bytes(self) -> int:
        return 0 if self._file is None or not self._file.places else self._file.end

    def rounded(self, states: Tensor) -> Tensor:
        """States as they come out of the store again."""
        if self.settings.dtype == "bfloat16" and states.dtype in (torch.float32, torch.float64):
            return states.to(torch.bfloat16).to(states.dtype)
        return states

    def level(self, key: bytes, digests: Sequence[str]) -> int:
        """The layer that a row's states enter; 0 where it is not kept, or something else has computed it.

        Args:
            key: the row's.
            digests: of what runs below each layer, up to the highest that is of use.
        """
        kept = self._memory.get(key) or (None if self._file is None else self._file.places.get(key))
        if kept is None or kept.level >= len(digests):
            return 0
        return kept.level if kept.digest == digests[kept.level] else 0

    def read(self, key: bytes) -> Tensor | None:
        """A kept row's states on the processor; None where the file does not give them."""
        kept = self._memory.get(key)
        return kept.states if kept is not None else None if self._file is None else self._file.read(key)

    def write(self, key: bytes, states: Tensor, level: int, digest: str = "") -> None:
        """Keeps a row in place of what was kept of it, if there is room."""
        if self.settings.dtype == "bfloat16" and states.dtype in (torch.float32, torch.float64):
            states = states.to(torch.bfloat16)
        states = states.detach().to("cpu")
        size = states.numel() * states.element_size()
        old = self._memory.pop(key, None)
        if old is not None:
            self.memory_bytes -= _bytes(old.states)
        if old is not None or self._file is None or key not in self._file.places:
            if self.memory_bytes + size <= self.settings.memory_bytes:
                self._memory[key] = _Kept(states.clone(), level, digest)
                self.memory_bytes += size
                self.peak_bytes = max(self.peak_bytes, self.memory_bytes)
                return
            if self._file is None or self._file.end + size > self.settings.disk_bytes:
                return
        self._to_file(key, states, level, digest)

    def _to_file(self, key: bytes, states: Tensor, level: int, digest: str) -> None:
        assert self._file is not None, "only a store with a file has rows for it"
        if self._full:
            self._file.places.pop(key, None)
            return
        try:
            self._file.write(key, states, level, digest)
        except OSError as error:
            self._full = True
            what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error.strerror or error)
            self._say(f"cache: {what}: no further rows are kept, training goes on without them")

    def forget_others(self, digests: Sequence[str]) -> None:
        """Gives up what other weights have made of rows up to the highest of these layers, so that there is room."""
        if self._file is not None:
            places = self._file.places
            for key in [k for k, p in places.items() if p.level < len(digests) and p.digest not in digests]:
                del places[key]
            if not places:
                self._file.clear()

    def clear(self) -> None:
        """Forgets all rows."""
        self._memory, self.memory_bytes = {}, 0
        if self._file is not None:
            self._file.clear()

    def save(self) -> None:
        """In a folder: has the rows found again, those in memory too as far as the disk's limit goes."""
        if self._file is None or self.settings.folder is None:
            return
        for key, kept in self._memory.items():
            place = self._file.places.get(key)
            if place is not None and (place.level, place.digest) == (kept.level, kept.digest):
                continue
            if place is None and self._file.end + _bytes(kept.states) > self.settings.disk_bytes:
                continue
            self._to_file(key, kept.states, kept.level, kept.digest)
        try:
            self._file.save()
        except OSError as error:
            self._say(f"cache: its index cannot be written ({error.strerror or error}): a later run finds no rows")

    def close(self) -> None:
        """Saves, and gives all back."""
        self.save()
        self._memory = {}
        self.memory_bytes = 0
        if self._file is not None:
            self._file.close()
            self._file = None


def _bytes(states: Tensor) -> int:
    return states.numel() * states.element_size()
