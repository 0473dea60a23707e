"""Paths of modules and parameters, taken apart at their dots."""

from __future__ import annotations

from collections.abc import Iterable


def owner_of(path: str) -> str:
    """The path of the module that a parameter is of.

    >>> owner_of("layers.0.experts.down_proj"), owner_of("weight")
    ('layers.0.experts', '')
    """
    return path.rpartition(".")[0]


def ends(path: str, ending: str) -> bool:
    """Whether a path ends with these parts.

    >>> ends("layers.0.experts.down_proj", "experts.down_proj"), ends("layers.0.down_proj", "own_proj")
    (True, False)
    """
    return path == ending or path.endswith("." + ending)


def endings(paths: Iterable[str]) -> set[str]:
    """The paths, and all that they end with.

    >>> sorted(endings(["a.b.c"]))
    ['a.b.c', 'b.c', 'c']
    """
    return {".".join(parts[i:]) for parts in (path.split(".") for path in paths) for i in range(len(parts))}
