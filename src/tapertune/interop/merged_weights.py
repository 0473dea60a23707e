"""The files of a merged model, written shard by shard.

One tensor is in memory at a time, and of an adapted one a few rows more, so a model is merged on a machine
that could not load it.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..files import write_json
from .checkpoint import FLOATS, INDEX, Checkpoint, Entry, new_entry, renamed, write_shard, write_tensor
from .folder import check_inside
from .placement import Job
from .saved import SavedAdapter

_WEIGHT_FILES = {".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".ot", ".onnx", ".gguf"}
_BLOCK = 1 << 18  # elements of an update that are in memory at once


def write_weights(checkpoint: Checkpoint, adapter: SavedAdapter, job: Job, folder: Path, kind: str | None) -> None:
    """Writes weights, index, config and other files; ``kind`` is the dtype of all floating-point weights, if any."""
    own = next((FLOATS[job.entries[n].dtype] for n, v in job.values.items() if v.module and n in job.entries), None)
    writer = _Writer(adapter, job, own or torch.float32)
    last = sorted(checkpoint.shards)[-1]
    weight_map, total = {}, 0
    for shard, entries in checkpoint.shards.items():
        listed = [renamed(entry, job.prefix + entry.name) for entry in entries]
        listed += [writer.added(name) for name in job.added if shard == last]
        listed = [_converted(entry, kind) for entry in listed]
        write_shard(folder / shard, listed, checkpoint.metadata[shard], writer)
        weight_map |= {entry.name: shard for entry in listed}
        total += sum(entry.size for entry in listed)
    if checkpoint.sharded:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
    for path in _side_files(checkpoint.folder):
        shutil.copyfile(path, folder / path.name)
    if job.config != checkpoint.config:
        write_json(folder / "config.json", job.config, allow_nan=True)  # some models have infinite settings


def _converted(entry: Entry, kind: str | None) -> Entry:
    """The entry of a tensor of another dtype; what is no floating-point number stays."""
    if kind is None or entry.dtype not in FLOATS:
        return entry
    itemsize = FLOATS[entry.dtype].itemsize
    return replace(entry, dtype=kind, size=entry.size // itemsize * FLOATS[kind].itemsize)


def _side_files(folder: Path) -> list[Path]:
    """Config, tokenizer and the like: regular files of the folder. A link out of it is refused, not copied."""
    named = [p for p in folder.iterdir() if p.suffix not in _WEIGHT_FILES and not p.name.endswith(".index.json")]
    found = [path for path in named if path.is_file() or (path.is_symlink() and not path.is_dir())]
    for path in found:
        check_inside(path)
    return found


class _Writer:
    """Writes the bytes of a merged model's tensors; ``dtype`` is what tensors get that the base lacks."""

    def __init__(self, adapter: SavedAdapter, job: Job, dtype: torch.dtype) -> None:
        self.adapter, self.job, self.dtype = adapter, job, dtype

    def added(self, name: str) -> Entry:
        start = self.job.values[name].start
        return renamed(start, name) if isinstance(start, Entry) else new_entry(name, start.to(self.dtype))

    def __call__(self, entry: Entry, out: BinaryIO) -> None:
        job, name = self.job, entry.name.removeprefix(self.job.prefix)
        value = job.values.get(name) or job.values.get(entry.name)
        if value is None:
            source = job.entries[name] if name in job.entries else job.entries[entry.name]
            _copy(source, entry, out)
        elif value.module is not None:
            start = value.start.read() if isinstance(value.start, Entry) else value.start.clone()
            weight, lost, size = merged_weight(start, FLOATS[entry.dtype], self.adapter, value.module, value.transposed)
            job.add_rounding(lost, size)
            write_tensor(weight, out)
        elif isinstance(value.start, Entry):
            _copy(value.start, entry, out)
        else:
            write_tensor(value.start.to(FLOATS[entry.dtype]), out)


def _copy(source: Entry, entry: Entry, out: BinaryIO) -> None:
    """Writes a tensor as the entry has it."""
    if source.dtype == entry.dtype:
        source.copy_to(out)
    else:
        write_tensor(source.read().to(FLOATS[entry.dtype]), out)


@torch.no_grad()
def merged_weight(
    start: Tensor, dtype: torch.dtype, adapter: SavedAdapter, module: str, transposed: bool
) -> tuple[Tensor, float, float]:
    """A module's weight with its update, computed some rows at a time; in place where the dtype stays.

    Returns:
        the weight, and the squared norms (Frobenius) of what its dtype could not take and of the update.
    """
    weight = start if start.dtype == dtype else torch.empty(start.shape, dtype=dtype)
    # a convolution's is (d_out, d_in / groups, k, k), its update a matrix all the same
    source, target = (t.T if transposed else t.view(t.shape[0], -1) for t in (start, weight))
    wide = torch.float64 if start.dtype == torch.float64 else torch.float32
    pair = [t.to(wide) for t in adapter.low_rank(module)] if adapter.chain.linear else None
    d_out, d_in = target.shape
    step = max(1, _BLOCK // d_in)
    lost = size = 0.0
    for first in range(0, d_out, step):
        rows = slice(first, min(first + step, d_out))
        delta = pair[1][rows] @ pair[0] if pair else adapter.delta_rows(module, first, rows.stop, wide)
        exact = source[rows].to(wide) + delta
        target[rows] = exact.to(dtype)
        lost += (target[rows].to(wide) - exact).square().sum().item()
        size += delta.square().sum().item()
    return weight, lost, size
