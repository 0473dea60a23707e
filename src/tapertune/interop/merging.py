"""Full weights from a base model and an adapter: what is asked for, checked, written and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import TapertuneError, unknown
from ..files import check_free, whole_folder, write_text
from .card import merge_card
from .checkpoint import FLOATS, Checkpoint, base_input_widths, open_checkpoint
from .comparison import compare_logits, load_base
from .contents import cut_adapter
from .experts import one_by_one
from .exports import ExportForm, MergeReport
from .merged_config import describe
from .merged_weights import write_weights
from .placement import Job, place
from .saved import SavedAdapter, read_adapter
from .servers import GENERATING, find_server
from .shapes import shapes_of_base
from .side_files import copy_side_files

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def merge(
    base: str | Path,
    adapter_dir: str | Path,
    out: str | Path,
    *,
    dtype: str | None = None,
    rank: int | None = None,
    energy: float | None = None,
    max_error: float | None = None,
    check: bool = False,
    max_difference: float | None = None,
    server: str | None = None,
    commands: tuple[str, ...] = (),
) -> MergeReport:
    """Writes the base model's weights with the adapter's update added, in the base's dtype, files and index.

    Updates are computed and added in float32 (float64 for float64 weights). Modules saved beside the adapter take the
    place of the base's or are added. Other files of the base's folder (config, tokenizer) are copied; the adapter's
    tokenizer and ``task.json`` take their place.

    Args:
        base: a folder with safetensors weights, or a model's name on the Hub.
        adapter_dir: one of tapertune's adapters.
        out: a new folder; it appears only when everything is written.
        dtype: of the floating-point weights: float32, float16 or bfloat16; default: each as the base has it.
        rank: cut each update to this rank first; ``energy`` and ``max_error`` as for ``export_lora``.
        energy: see ``rank``.
        max_error: see ``rank``.
        check: compare the logits of the base with the adapter to those of the merged model, both loaded.
        max_difference: the largest difference of a logit that ``check``, which it implies, lets pass.
        server: that is to serve it.
        commands: for the report and the card.

    Raises:
        TapertuneError: a quantised base, a module without a weight, shapes that differ, files that cannot be read, a
            model that the server does not serve, logits that differ.
    """
    adapter_dir, out, base = Path(adapter_dir), Path(out), str(base)
    if dtype is not None and dtype not in _DTYPES:
        raise unknown("dtype", dtype, _DTYPES)
    form = ExportForm(rank=rank, energy=energy, max_error=max_error, max_difference=max_difference)
    check_free(out)
    checkpoint = open_checkpoint(base)
    adapter = read_adapter(adapter_dir, base_input_widths(checkpoint.folder))
    # a checkpoint holds experts' matrices by themselves
    adapter = one_by_one(adapter, {}, checkpoint.config.get("model_type"))
    merged = cut_adapter(adapter, form) if form.cuts else adapter
    compared = check or max_difference is not None
    model_class = _model_class(base, adapter, server) if compared or server is not None else None
    with whole_folder(out) as folder:
        job = _write_model(checkpoint, merged, adapter_dir, folder, base, dtype=dtype)
        comparison = None
        if compared:
            written = FLOATS[_DTYPES[dtype]] if dtype is not None else torch.float32
            comparison = compare_logits(
                adapter_dir, base, adapter, model_class, lambda: load_base(str(folder), adapter, model_class), written
            )
            kind = FLOATS.get(_DTYPES.get(dtype or _dtype_of(job), ""), torch.float32)
            comparison.check(job.rounding + _cut_away(adapter, merged), max_difference, kind)
        report = MergeReport(
            method=adapter.config.method,
            modules=list(merged.modules),
            replaced=job.replaced,
            added=job.added,
            shards=sorted(checkpoint.shards),
            rounding=job.rounding,
            lost=job.lost,
            dtype=dtype or _dtype_of(job),
            warnings=job.warnings,
            out=out,
            base=base,
            comparison=comparison,
            commands=commands,
        )
        write_text(folder / "README.md", merge_card(report))
    return report


def write_base(base: str, adapter: SavedAdapter, adapter_dir: Path, folder: Path) -> list[str]:
    """Writes the base model with the weights that were saved whole in it, and no update; returns what a user should
    know.

    Args:
        base: a folder, or a model's name on the Hub.
        adapter: whose weights those are.
        adapter_dir: its folder.
        folder: a new one.

    Raises:
        TapertuneError: as ``merge``.
    """
    folder.mkdir()
    return _write_model(open_checkpoint(base), adapter, adapter_dir, folder, base, updates=False).warnings


def _write_model(
    checkpoint: Checkpoint,
    adapter: SavedAdapter,
    adapter_dir: Path,
    folder: Path,
    base: str,
    *,
    dtype: str | None = None,
    updates: bool = True,
) -> Job:
    _refuse_quantised(checkpoint, base)
    job = place(checkpoint, adapter, base, updates=updates)
    describe(job, adapter, adapter_dir)
    if dtype is not None:
        job.config["torch_dtype" if "torch_dtype" in job.config else "dtype"] = dtype
    write_weights(checkpoint, adapter, job, folder, None if dtype is None else _DTYPES[dtype])
    copy_side_files(adapter_dir, None, folder)
    return job


def _model_class(base: str, adapter: SavedAdapter, server: str | None) -> Any:
    """The class that has the adapter's modules.

    Raises:
        TapertuneError: the server does not serve such models.
    """
    config = adapter.config
    found = shapes_of_base(base, adapter.modules, config.task_type, config.revision).model_class
    name = getattr(found, "__name__", "a module within another")
    if server is not None and find_server(server).generates and name not in GENERATING:
        raise TapertuneError(f"{server} serves models that generate text, and this is {name}'s")
    return found


def _cut_away(adapter: SavedAdapter, merged: SavedAdapter) -> float:
    """The largest relative error (Frobenius) of a module's update that was cut."""
    if merged is adapter:
        return 0.0
    pairs = {module: merged.low_rank(module) for module in merged.modules}
    errors = []
    for module in adapter.modules:
        exact = adapter.delta_rows(module, 0, adapter.widths(module)[0], torch.float64)
        left = exact - pairs[module][1] @ pairs[module][0] if module in pairs else exact
        errors.append((left.norm() / exact.norm()).item() if exact.any() else 0.0)
    return max(errors)


def _dtype_of(job: Job) -> str:
    """That of the weights which were merged, else the base's first."""
    names = {kind: name for name, kind in _DTYPES.items()}
    merged = [job.entries[name].dtype for name, value in job.values.items() if value.module and name in job.entries]
    kind = next(iter([*merged, *(entry.dtype for entry in job.entries.values())]), "F32")
    return names.get(kind, kind)


def _refuse_quantised(checkpoint: Checkpoint, base: str) -> None:
    quantisation = checkpoint.config.get("quantization_config")
    if quantisation is not None:
        kind = quantisation.get("quant_method", "unknown") if isinstance(quantisation, dict) else "unknown"
        raise TapertuneError(f"{base} is quantised ({kind}): merge into the weights it was quantised from")
