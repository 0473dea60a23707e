"""How much is worked on at once.

Several passes over all of an adapter's state go to main memory each time. On a CPU the same passes over one block after
another stay in a core's cache; on an accelerator a block is as large as scratch memory should get, so that nearly
always everything is one block and each pass one kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch

_CPU, _ACCELERATOR = 1 << 17, 1 << 24
T = TypeVar("T")


def block_size(device: torch.device) -> int:
    """Elements of a block."""
    return _CPU if device.type == "cpu" else _ACCELERATOR


def blocks(sizes: Iterable[int], limit: int) -> Iterator[tuple[int, int]]:
    """(first, end) of consecutive items that together have at most ``limit`` elements, or of one that has more.

    >>> list(blocks([3, 3, 3, 9, 1], 6))
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    first = end = held = 0
    for size in sizes:
        if end > first and held + size > limit:
            yield first, end
            first, held = end, 0
        end, held = end + 1, held + size
    if end > first:
        yield first, end


def runs(keys: Sequence[T]) -> Iterator[tuple[int, int]]:
    """(first, end) of consecutive equal items.

    >>> list(runs("aab"))
    [(0, 2), (2, 3)]
    """
    first = 0
    for i in range(1, len(keys) + 1):
        if i == len(keys) or keys[i] != keys[first]:
            yield first, i
            first = i
