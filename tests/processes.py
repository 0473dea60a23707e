"""Processes that tests start."""

from __future__ import annotations

import time

SMALL = ("_MOST", "_MOST_HALF", "_MOST_AWAY")
"""Bounds in ``tapertune.kernels.paths``, below which layers do without a node."""


def nodes_everywhere() -> None:
    """Does for a process that a test starts what ``conftest`` does for the tests' own."""
    from tapertune.kernels import paths

    for name in SMALL:
        setattr(paths, name, 0)


def leave() -> None:
    """Ends this process's part of a process group.

    Gloo's threads hold the group's lock while they let go of the last collective's Python objects, for which they need
    Python's. A group that is freed at that moment, under Python's lock, waits for them for ever.
    """
    from torch import distributed

    distributed.barrier()
    time.sleep(0.5)
    distributed.destroy_process_group()
