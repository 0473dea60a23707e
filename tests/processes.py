"""Processes that tests start."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

SMALL = ("_MOST", "_MOST_HALF", "_MOST_AWAY")
"""Bounds in ``tapertune.kernels.paths``, below which layers do without a node."""


def nodes_everywhere() -> None:
    """Does for a process that a test starts what ``conftest`` does for the tests' own."""
    from tapertune.kernels import paths

    for name in SMALL:
        setattr(paths, name, 0)


def together(worker: Callable[..., None], args: tuple[Any, ...] = (), size: int = 2) -> None:
    """Runs ``worker(rank, *args)`` in processes. Where that is safe they begin as copies of this one: an interpreter
    that starts anew imports for seconds."""
    import torch
    from torch import multiprocessing

    copies = sys.platform == "linux" and not torch.accelerator.is_available()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        multiprocessing.start_processes(worker, args, size, start_method="fork" if copies else "spawn")


def leave() -> None:
    """Ends this process's part of a process group.

    Gloo's threads hold the group's lock while they let go of the last collective's Python objects, for which they need
    Python's. A group that is freed at that moment, under Python's lock, waits for them for ever.
    """
    from torch import distributed

    distributed.barrier()
    time.sleep(0.5)
    distributed.destroy_process_group()
