"""Full weights from a base model and an adapter, written shard by shard.

One tensor is in memory at a time, and of an adapted one a few rows more, so a model is merged on a machine that could
not load it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import TapertuneError
from ..files import check_free, whole_folder, write_json
from .checkpoint import (
    FLOATS,
    INDEX,
    Checkpoint,
    Entry,
    base_input_widths,
    new_entry,
    open_checkpoint,
    renamed,
    write_shard,
    write_tensor,
)
from .experts import one_by_one
from .folder import check_inside
from .merged_config import describe
from .placement import Job, place
from .saved import SavedAdapter, read_adapter

_WEIGHT_FILES = {".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".ot", ".onnx", ".gguf"}
_BLOCK = 1 << 18  # elements of an update that are in memory at once


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """What a merge wrote. ``rounding`` is the largest relative part of an update lost to the weights' dtype."""

    method: str
    modules: list[str]
    replaced: list[str]
    added: list[str]
    shards: list[str]
    rounding: float
    warnings: list[str]
    out: Path


def merge(base: str | Path, adapter_dir: str | Path, out: str | Path) -> MergeReport:
    """Writes the base model's weights with the adapter's update added, in the base's dtype, files and index.

    Updates are computed and added in float32 (float64 for float64 weights). Modules saved beside the adapter take the
    place of the base's or are added. Other files of the base's folder (config, tokenizer) are copied.

    Args:
        base: a folder with safetensors weights, or a model's name on the Hub.
        adapter_dir: one of tapertune's adapters.
        out: a new folder; it appears only when everything is written.

    Raises:
        TapertuneError: a quantised base, a module without a weight, shapes that differ, files that cannot be read.
    """
    adapter_dir, out = Path(adapter_dir), Path(out)
    check_free(out)
    checkpoint = open_checkpoint(base)
    _refuse_quantised(checkpoint, str(base))
    adapter = read_adapter(adapter_dir, base_input_widths(checkpoint.folder))
    # a checkpoint holds experts' matrices by themselves
    adapter = one_by_one(adapter, {}, checkpoint.config.get("model_type"))
    job = place(checkpoint, adapter, str(base))
    describe(job, adapter, adapter_dir)
    with whole_folder(out) as folder:
        _write(checkpoint, adapter, job, folder)
    return MergeReport(
        method=adapter.config.method,
        modules=list(adapter.modules),
        replaced=job.replaced,
        added=job.added,
        shards=sorted(checkpoint.shards),
        rounding=job.rounding,
        warnings=job.warnings,
        out=out,
    )


def _refuse_quantised(checkpoint: Checkpoint, base: str) -> None:
    quantisation = checkpoint.config.get("quantization_config")
    if quantisation is not None:
        kind = quantisation.get("quant_method", "unknown") if isinstance(quantisation, dict) else "unknown"
        raise TapertuneError(f"{base} is quantised ({kind}): merge into the weights it was quantised from")


def _write(checkpoint: Checkpoint, adapter: SavedAdapter, job: Job, folder: Path) -> None:
    dtype = next((FLOATS[job.entries[n].dtype] for n, v in job.values.items() if v.module and n in job.entries), None)
    writer = _Writer(adapter, job, dtype or torch.float32)
    last = sorted(checkpoint.shards)[-1]
    weight_map, total = {}, 0
    for shard, entries in checkpoint.shards.items():
        listed = [renamed(entry, job.prefix + entry.name) for entry in entries]
        listed += [writer.added(name) for name in job.added if shard == last]
        write_shard(folder / shard, listed, checkpoint.metadata[shard], writer)
        weight_map |= {entry.name: shard for entry in listed}
        total += sum(entry.size for entry in listed)
    if checkpoint.sharded:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
    for path in _side_files(checkpoint.folder):
        shutil.copyfile(path, folder / path.name)
    if job.config != checkpoint.config:
        write_json(folder / "config.json", job.config, allow_nan=True)  # some models have infinite settings


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
            entry.copy_to(out)
        elif value.module is not None:
            kind = FLOATS[entry.dtype]
            weight = value.start.read() if isinstance(value.start, Entry) else value.start.to(kind, copy=True)
            job.rounding = max(job.rounding, add_update(weight, self.adapter, value.module, value.transposed))
            write_tensor(weight, out)
        elif isinstance(value.start, Entry):
            value.start.copy_to(out)
        else:
            write_tensor(value.start.to(FLOATS[entry.dtype]), out)


@torch.no_grad()
def add_update(weight: Tensor, adapter: SavedAdapter, module: str, transposed: bool) -> float:
    """Adds a module's update to its weight, in place, some rows at a time.

    Returns:
        the part of the update that the weight's dtype could not take, relative to the update (Frobenius).
    """
    target = weight.T if transposed else weight
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    pair = [t.to(wide) for t in adapter.low_rank(module)] if adapter.chain.linear else None
    d_out, d_in = target.shape
    step = max(1, _BLOCK // d_in)
    lost = size = 0.0
    for start in range(0, d_out, step):
        rows = slice(start, min(start + step, d_out))
        delta = pair[1][rows] @ pair[0] if pair else adapter.delta_rows(module, start, rows.stop, wide)
        exact = target[rows].to(wide) + delta
        target[rows] = exact.to(weight.dtype)
        lost += (target[rows].to(wide) - exact).square().sum().item()
        size += delta.square().sum().item()
    return (lost / size) ** 0.5 if size else 0.0
