"""Runs of several processes, as torchrun and ``accelerate launch`` start them: all compute, the first one writes."""

from __future__ import annotations

import os

import torch
from accelerate import PartialState
from torch import distributed

from ..tasks.kinds.sharing import gathered


def join(*, cpu: bool = False) -> torch.device:
    """Joins the processes that were started together, if there are others; returns the device of this one.

    Args:
        cpu: keep to the processor.
    """
    state = PartialState(cpu=cpu or on_processors())
    if cpu or state.device is None:
        return torch.device("cpu")
    # An earlier run of this process may have kept to the processor; its state stays.
    return torch.device("cuda", state.local_process_index) if torch.cuda.is_available() else state.device


def on_processors() -> bool:
    """Whether several processes were started where there is no accelerator: accelerate joins them only if told so."""
    accelerated = torch.cuda.is_available() or torch.xpu.is_available()
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not accelerated


def is_first() -> bool:
    """Whether this process is the one that writes and prints; known before ``join``."""
    return (distributed.get_rank() if _joined() else int(os.environ.get("RANK", "0"))) == 0


def wait() -> None:
    """Returns when all processes are here."""
    if _joined():
        distributed.barrier()


def total(value: int) -> int:
    """The sum over all processes."""
    return sum(gathered([value], distributed.get_world_size() if _joined() else 1))


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()
