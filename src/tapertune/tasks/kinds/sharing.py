"""Batches shared among the processes of a distributed run."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


def share(model: Any) -> tuple[int, int]:
    """(number of this process, number of processes that share the batches).

    A model whose weights are spread over the processes needs all of them for each batch: there, every process reads
    every batch.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()) or _is_spread(model):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def gathered(parts: list[T], processes: int) -> list[T]:
    """What all the processes have, in each of them."""
    from torch import distributed

    if processes == 1:
        return parts
    found: list[Any] = [None] * processes
    distributed.all_gather_object(found, parts)
    return [part for each in found for part in each]


def _is_spread(model: Any) -> bool:
    """Whether FSDP (of either kind) or DeepSpeed's third stage has split the weights."""
    kinds = {type(parameter).__name__ for parameter in model.parameters()}
    return bool(kinds & {"DTensor", "FlatParameter"}) or any(hasattr(p, "ds_id") for p in model.parameters())
