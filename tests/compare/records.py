"""Made-up records, whole enough for tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapertune.compare.jobs import Comparison
from tapertune.compare.points import Point
from tapertune.compare.record import Examples, RunRecord


def record_for(
    comparison: Comparison, row: str, task: str, point: Point, seed: int, *, selection: float | None, test: float,
    **others: Any,
) -> RunRecord:  # fmt: skip
    """The record of a run whose test has that share of right answers, of a thousand; None for one that diverged."""
    job = comparison.job(row, task, point, seed)
    right = np.zeros(1000, dtype=np.uint8)
    right[: round(1000 * test)] = 1
    bits = np.packbits(np.random.default_rng(seed).permutation(right)).tobytes().hex()
    shared = {"metric": "accuracy", "interval": (0.0, 1.0)}
    scores = {} if selection is None else {
        "selection": {**shared, "value": selection, "count": 8, "metrics": {}},
        "test": {**shared, "value": test, "count": 1000, "metrics": {}, "examples": Examples(count=1000, bits=bits)},
        "parameters": {"start": 1000, "average": 600.0, "end": 200, "head": 10, "base": 5000},
        "flops": 2e12, "steps": 10, "train_seconds": 3.0, "adapter_bytes": 4000, "optimizer_bytes": (8000, 1600),
    }  # fmt: skip
    fields = {
        "digest": job.digest, "row": row, "task": task, "seed": seed, "rate": point.rate, "changes": {},
        "status": "diverged" if selection is None else "done", "method": job.method, "settings": {},
        "sizes": job.sizes, "data": job.data, "model": job.model, "wall_seconds": 4.0, "cpu_seconds": 4.0,
        "peak_bytes": 2**29, "versions": {}, "commit": "abc",
        "machine": {"cpu": "this", "device": "cpu", "dtype": "float32", "threads": 1}, **scores, **others,
    }  # fmt: skip
    return RunRecord.model_validate(fields)
