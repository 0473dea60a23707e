"""How OpenMP's threads wait, and whether their number is ours to choose: looked at before torch is loaded.

At the end of each operation torch's threads wait for the last of them. By default they do so in a loop, for milli-
seconds, and where another program has one of the cores, the thread that they wait for does not get theirs: a step then
takes many times as long. A loop of some microseconds lets go of cores that are shared.
"""

from __future__ import annotations

import os
import sys

WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""Turns of that loop in GNU's library (its own choice where there are more threads than cores), and milliseconds in
Intel's and LLVM's."""
_WAITING_SET = (*WAITING, "OMP_WAIT_POLICY")
_NUMBER_SET = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_free = False


def begin() -> bool:
    """Sets how threads wait, unless the environment does; to be called where a process begins.

    Returns:
        Whether the number of threads is free to choose. It is not where the environment names it, or where torch is
        loaded already: then somebody may have set it, and how threads wait cannot be changed any more.
    """
    global _free
    if "torch" in sys.modules:
        return _free
    if not any(name in os.environ for name in _WAITING_SET):
        os.environ.update(WAITING)
    _free = not any(name in os.environ for name in _NUMBER_SET)
    return _free


def are_threads_free() -> bool:
    """What ``begin`` has found."""
    return _free
