"""One run of a grid: train, score on the selection rows, then read the test once; a record comes out."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..interop import export_lora
from ..runfile import environment
from ..runfile.blocks import TaskBlock
from ..runfile.settings import RunSettings, check_settings
from ..train.evaluation import evaluate
from ..train.measure import Measured
from ..train.models import find_model
from ..train.run_folder import EVENTS
from ..train.runner import run as train
from ..train.trained_folder import TASK_FILE
from .jobs import Job
from .record import Machine, RunRecord, result_of
from .special import COMPRESSED, PEFT_ROWS, compressed_form
from .watch import Watch

Found = dict[str, Any]


def perform(job: Job, scratch: Path) -> tuple[dict[str, Any], bytes | None]:
    """(the record of a run, its events where they are to be kept). One thread computes.

    Raises:
        Exception: the run failed; a run that diverges does not fail, it has no scores.
    """
    torch.set_num_threads(1)
    scratch.mkdir(parents=True, exist_ok=True)
    wall, cpu = time.perf_counter(), time.process_time()
    watch, found, events = Watch(job.stop), {}, None
    with tempfile.TemporaryDirectory(dir=scratch, prefix=f"{job.digest}-") as folder:
        settings = settings_of(job, Path(folder) / "run")
        status, error = "done", None
        try:
            found = _found(job, settings, watch)
        except ArithmeticError as problem:
            status, error = "diverged", str(problem)
        kept = Path(settings.output_dir) / EVENTS
        events = kept.read_bytes() if job.keep_events and kept.is_file() else None
    record = RunRecord(
        digest=job.digest, row=job.row, task=job.task, seed=job.seed, rate=job.point.rate,
        changes=dict(job.point.changes), status=status, error=error, stopped=watch.stopped,  # pyright: ignore[reportArgumentType]
        method=job.method, settings=kept_settings(settings), sizes=job.sizes, data=job.data, model=job.model,
        losses=watch.curve(), train_cpu_seconds=round(watch.cpu_seconds, 2),
        wall_seconds=round(time.perf_counter() - wall, 2), cpu_seconds=round(time.process_time() - cpu, 2),
        peak_bytes=environment.peak_cuda_bytes() or environment.peak_rss_bytes(), versions=environment.versions(),
        commit=environment.git_state().commit, machine=machine_of(settings), **found,
    )  # fmt: skip
    return record.model_dump(mode="json"), events


def settings_of(job: Job, folder: Path) -> RunSettings:
    """A run's settings with its files, in a folder."""
    task = {**job.settings["task"], "train": job.files["train"], "validation": job.files["selection"]}
    return check_settings({**job.settings, "task": task, "output_dir": str(folder)})


def kept_settings(settings: RunSettings) -> dict[str, Any]:
    """What a record keeps of the settings: all but names, places, data and seed, which it has by themselves."""
    plain = settings.resolved()
    kept = {name: plain[name] for name in ("dtype", "quantization", "method", "plan", "training", "head")}
    model = Path(settings.model)
    if plain["cache"] is not None:
        kept["cache"] = plain["cache"]
    return {"model": model.name if model.is_dir() else settings.model, **kept}


def machine_of(settings: RunSettings) -> Machine:
    """The machine, the device and the number type of a run."""
    hardware, training = environment.hardware(), settings.training
    cuda = hardware.gpu is not None and not training.get("use_cpu")
    half = next((name for name in ("bf16", "fp16") if training.get(name)), None)
    dtype = settings.dtype + (f" under {half} autocast" if half else "")
    return Machine(cpu=hardware.cpu, gpu=hardware.gpu, device="cuda" if cuda else "cpu", dtype=dtype,
                   threads=torch.get_num_threads())  # fmt: skip


def _found(job: Job, settings: RunSettings, watch: Watch) -> Found:
    """What was measured.

    Raises:
        ArithmeticError: the run diverged.
    """
    test = Path(job.files["test"])
    if job.method["name"] in PEFT_ROWS:
        return _of_peft(job.method, settings, test, watch)
    made = train(settings, overwrite=True, display=watch)
    folder = Path(settings.output_dir)
    costs = {
        "parameters": made["parameters"], "flops": made["flops"]["total"], "steps": made["steps"],
        "train_seconds": round(made["time"]["train_seconds"], 2), "adapter_bytes": made["adapter_bytes"],
        "optimizer_bytes": [made["memory"]["optimizer_bytes_start"], made["memory"]["optimizer_bytes_end"]],
        "cache": made["cache"],
    }  # fmt: skip
    if job.method["name"] == COMPRESSED:
        folder, costs["adapter_bytes"] = _compressed(folder, job.method, settings)
    selection = _scored(folder, settings, job.files["selection"])
    measured = _scored(folder, settings, job.files["test"])
    return {"selection": result_of(selection), "test": result_of(measured, examples=True), **costs}


def _of_peft(method: Mapping[str, Any], settings: RunSettings, test: Path, watch: Watch) -> Found:
    from .peft_rows import run_peft

    made = run_peft(method, settings, test, watch)
    if not math.isfinite(loss := made.selection.metrics.get("loss", 0.0)):
        raise ArithmeticError(f"training diverged: the evaluation loss is {loss}; learn more slowly")
    costs = made.costs
    return {
        "selection": result_of(made.selection), "test": result_of(made.test, examples=True),
        "parameters": made.parameters, "flops": made.flops, "steps": made.steps,
        "train_seconds": round(costs.train_seconds, 2), "adapter_bytes": made.adapter_bytes,
        "optimizer_bytes": [costs.optimizer_bytes_start, costs.optimizer_bytes_end],
    }  # fmt: skip


def _compressed(folder: Path, method: Mapping[str, Any], settings: RunSettings) -> tuple[Path, int]:
    """A trained LoRA cut by its singular values, in a folder beside it, and the bytes of its weights."""
    out = folder.with_name("compressed")
    export_lora(folder, out, **compressed_form(method), ragged="energy" in method, base=find_model(settings.model))
    shutil.copy(folder / TASK_FILE, out / TASK_FILE)
    return out, (out / "adapter_model.safetensors").stat().st_size


def _scored(folder: Path, settings: RunSettings, file: str) -> Measured:
    """A saved run's score on a file's rows, in the precision of its training."""
    block: TaskBlock = settings.task
    fields = {name: value for name, value in block.model_dump().items() if value is not None}
    own = {k: v for k, v in fields.items() if k not in ("name", "train", "data", "hub", "train_rows", "stream")}
    _, splits, _ = evaluate(
        folder, task=block.name, base=settings.model, start=lambda _: lambda _: None, **{**own, "validation": file}
    )
    return next(iter(splits.values()))
