"""A run's record: one file of the store, checked against its schema."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..runfile.record import LayerCacheCounts, Parameters
from ..tasks.kinds import Scores
from ..train.measure import Measured

VERSION = 1
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
_HEX = re.compile("(?:[0-9a-f]{2})*")
DRAWS = 400  # bootstrap samples of the test's rows, the same rows in every run


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Examples(_Part):
    """Each test row's score, or what stands for it.

    Attributes:
        count: of the rows.
        bits: hexadecimal; bit n says whether row n is right.
        values: each row's score, where it is not right or wrong.
        draws: the metric of ``DRAWS`` samples of rows, where it is no mean over rows (correlations, F1).
    """

    count: Count
    bits: str | None = None
    values: list[float] | None = None
    draws: list[float] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Examples:
        if self.bits is not None and not (_HEX.fullmatch(self.bits) and 4 * len(self.bits) >= self.count):
            raise ValueError(f"bits must be hexadecimal, a bit for each of {self.count} rows")
        if self.values is not None and len(self.values) != self.count:
            raise ValueError(f"there are {len(self.values)} values of {self.count} rows")
        if self.draws is not None and len(self.draws) != DRAWS:
            raise ValueError(f"there are {len(self.draws)} draws; it must be {DRAWS}")
        return self

    def sampled(self) -> NDArray[Any]:
        """The metric of each of the samples of rows: (DRAWS,)."""
        if self.draws is not None:
            return np.array(self.draws)
        return self.each()[sampled_rows(self.count)].mean(1)

    def each(self) -> NDArray[Any]:
        """Each row's score, where the metric is their mean: (count,)."""
        if self.bits is None:
            return np.array(self.values or [])
        packed = np.frombuffer(bytes.fromhex(self.bits), dtype=np.uint8)
        return np.unpackbits(packed)[: self.count].astype(float)


class Result(_Part):
    """What a split's evaluation found."""

    metric: str
    value: float
    count: Count
    interval: tuple[float, float]
    metrics: dict[str, float]
    examples: Examples | None = None


class Machine(_Part):
    """Where a run was made. Times are compared between runs of one machine and one number type alone."""

    cpu: str
    gpu: str | None = None
    device: str
    dtype: str
    threads: int

    @property
    def label(self) -> str:
        return f"{self.gpu if self.device == 'cuda' else self.cpu}, {self.dtype}, {self.threads} thread" + (
            "s" if self.threads != 1 else ""
        )


class RunRecord(_Part):
    """One run. A run that diverged has no scores; nothing else is missing from any."""

    schema_version: int = VERSION
    digest: str
    row: str
    task: str
    seed: Count
    rate: float = Field(gt=0)
    changes: dict[str, Any]
    status: Literal["done", "diverged"]
    error: str | None = None
    stopped: str | None = None
    method: dict[str, Any]
    settings: dict[str, Any]
    sizes: dict[str, int]
    data: dict[str, str]
    model: str
    selection: Result | None = None
    test: Result | None = None
    parameters: Parameters | None = None
    flops: float | None = None
    steps: Count | None = None
    losses: list[tuple[int, float]] = []
    train_seconds: float | None = None
    train_cpu_seconds: float | None = None
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: Count
    optimizer_bytes: tuple[Count, Count] | None = None
    adapter_bytes: Count | None = None
    cache: LayerCacheCounts | None = None
    versions: dict[str, str]
    commit: str | None = None
    machine: Machine


def sampled_rows(count: int) -> NDArray[Any]:
    """The rows of each bootstrap sample, the same for every run with so many test rows: (DRAWS, count)."""
    return np.random.default_rng(0).integers(0, count, size=(DRAWS, count))


def result_of(measured: Measured, *, examples: bool = False) -> Result:
    """A split's evaluation as records keep it.

    Args:
        measured: the evaluation.
        examples: keep each row's score too.
    """
    score = measured.score
    kept = _examples(measured.scores, score.count) if examples else None
    rounded = {name: float(value) for name, value in measured.metrics.items()}
    return Result(metric=score.metric, value=score.value, count=score.count, interval=score.interval, metrics=rounded,
                  examples=kept)  # fmt: skip


def _examples(scores: Scores, count: int) -> Examples:
    if scores.values is None:
        assert scores.resample is not None, "scores have one of the two"
        draws = [round(float(scores.resample(rows)), 5) for rows in sampled_rows(count)]
        return Examples(count=count, draws=draws)
    values = scores.values
    if set(values) <= {0.0, 1.0}:
        return Examples(count=count, bits=np.packbits(np.array(values, dtype=np.uint8)).tobytes().hex())
    return Examples(count=count, values=[round(float(value), 5) for value in values])
