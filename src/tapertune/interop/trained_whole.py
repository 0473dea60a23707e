"""Weights saved beside an adapter that were trained, and those that are there as copies of the base's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import TapertuneError
from .checkpoint import FLOATS, Entry, open_checkpoint
from .saved import SavedAdapter

_COPY = ".base_layer."


def without_copies(adapter: SavedAdapter, base: str | Path | None) -> SavedAdapter:
    """The adapter without weights of adapted modules themselves that are the base's.

    PEFT saves the weight of an adapted output head with it, as it could have new rows. Where it is the base's, nothing
    is lost without it, and servers take no such weight.

    Args:
        adapter: with whatever is saved beside it.
        base: the base model; where its weights cannot be read, nothing is left out.
    """
    copies = {name: tensor for name, tensor in adapter.extras.items() if _COPY in name}
    if not copies or not base:
        return adapter
    try:
        entries = open_checkpoint(base).entries
    except TapertuneError:
        return adapter
    same = {name for name, tensor in copies.items() if _is_of_base(name, tensor, entries)}
    return replace(adapter, extras={name: t for name, t in adapter.extras.items() if name not in same})


def _is_of_base(name: str, tensor: Tensor, entries: dict[str, Entry]) -> bool:
    own = entries.get(name.replace(_COPY, "."))
    # a head that is tied is in the file as the embedding alone
    candidates = [own] if own is not None else [e for e in entries.values() if e.shape == tuple(tensor.shape)]
    return any(entry.dtype in FLOATS and torch.equal(entry.read().float(), tensor.float()) for entry in candidates)
