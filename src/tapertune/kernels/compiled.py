"""Whether compiled code can take these tensors."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .native import library
from .selection import kernel_name

_DTYPES = {torch.float32: "float32", torch.float64: "float64"}
_PLAIN = (Tensor, nn.Parameter)


class Compiled(NamedTuple):
    """The library, and the type whose functions serve: ``float32`` or ``float64``."""

    library: ctypes.CDLL
    dtype: str


def compiled_for(first: Tensor, *others: Tensor) -> Compiled | None:
    """The compiled code for plain tensors of one dtype that it knows, on a processor; None where it is not to be had or
    not selected, and where something looks on at torch's operations or stands in for them."""
    dtype = first.dtype
    if dtype not in _DTYPES or first.device.type != "cpu" or _watched() or kernel_name() != "native":
        return None
    if type(first) not in _PLAIN or any(type(one) not in _PLAIN or one.dtype != dtype for one in others):
        return None
    known = library()
    assert known is not None, "the kernel's name says that it is there"
    return Compiled(known, _DTYPES[dtype])


def _watched() -> bool:
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._get_tracing_state() is not None
