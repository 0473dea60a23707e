"""Which kernel computes adapted layers, by the environment."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ..errors import TapertuneError, unknown
from .native import library, why_not

_Called = TypeVar("_Called", bound=Callable[..., Any])

NAMES = ("native", "fused", "lowrank", "reference")
FUSED_KERNELS = frozenset({"native", "fused"})
_FORMER_NAMES = {"folded": "lowrank"}


def kernel_name() -> str:
    """The kernel that ``TAPERTUNE_KERNEL`` names; without it ``native`` where that can be compiled, else ``fused``.

    Raises:
        TapertuneError: another name; or ``native``, which cannot be compiled here.
    """
    name = os.environ.get("TAPERTUNE_KERNEL")
    if name in _FORMER_NAMES:
        name = _renamed(name)
    if name is not None and name not in NAMES:
        raise unknown("kernel (TAPERTUNE_KERNEL)", name, NAMES)
    if name not in (None, "native"):
        return name
    if torch.compiler.is_compiling():  # which computes layers unfused, and could not follow how a library is made
        return "fused"
    if library() is not None:
        return "native"
    if name is not None:
        raise TapertuneError(f"kernel (TAPERTUNE_KERNEL) is 'native', which is not to be had here: {why_not()}")
    return "fused"


@functools.cache
def _renamed(former: str) -> str:
    """The name that has replaced a former one; says so once a process."""
    name = _FORMER_NAMES[former]
    warnings.warn(
        f"kernel (TAPERTUNE_KERNEL) {former!r} is now called {name!r}; the former name will go",
        FutureWarning,
        stacklevel=3,
    )
    return name


def uncompiled(function: _Called) -> _Called:
    """Keeps torch.compile away from a function.

    Where a whole model is too much for it, it tries the functions that are called one by one, among them those that
    serve only what is not compiled.
    """
    kept: Any = torch.compiler.disable(function)
    return kept
