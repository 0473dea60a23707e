"""``run.json``: what was run, where, and what came of it. Read and written whole, checked against its schema."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import TapertuneError, shown
from ..files import read_json, write_json

VERSION = 1
FILE = "run.json"
_RUNNING = b'"running"'
_FAILED = b'"failed" '  # of the same length
_Model = TypeVar("_Model", bound=BaseModel)
Status = Literal["running", "done", "failed", "interrupted"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Hardware(_Part):
    cpu: str
    cores: int
    threads: int
    memory_gb: float
    gpu: str | None


class Git(_Part):
    commit: str | None
    dirty: bool | None


class Score(_Part):
    metric: str
    value: float
    count: int
    interval: tuple[float, float]


class Parameters(_Part):
    """Parameters that train: in the adapter (at the start, averaged over steps, at the end) and in the head."""

    start: int
    average: float
    end: int
    head: int
    base: int


class Flops(_Part):
    total: float
    per_token: dict[str, float]


class Time(_Part):
    train_seconds: float
    eval_seconds: float
    seconds_per_step: float


class Memory(_Part):
    peak_rss_bytes: int
    peak_cuda_bytes: int | None
    optimizer_bytes_start: int
    optimizer_bytes_end: int


class LayerCacheCounts(_Part):
    """What the cache of frozen layers was good for; ``layer_cache.cache.LayerCache.summary`` says what each is."""

    layer: int
    layers: int
    hits: int
    carried: int
    misses: int
    hit_rate: float
    rows: int
    memory_bytes: int
    disk_bytes: int
    dtype: str
    dropout: str
    off: str | None = None


class Rows(_Part):
    """What became of a split's rows (of a stream's: all that were read). ``tasks.counts.Counts`` says what each is."""

    rows: int
    bad: int
    empty: int = 0
    left_out: int
    cut: int
    answers_cut: int


class Rate(_Part):
    """The learning rate that ``auto`` stood for, the rates between which the method learned, and why it is this one."""

    rate: float
    low: float
    high: float
    reasons: list[str]
    source: str


class ClassScores(_Part):
    """Rows by class on the split that gives the score; see ``tasks.kinds.base.ClassCounts``."""

    labels: list[str]
    right: list[int]
    predicted: list[int]
    actual: list[int]
    confusion: list[list[int]] | None = None


class Record(_Part):
    """The whole of ``run.json``. The fields from ``score`` on are there once the run is done."""

    schema_version: int = VERSION
    status: Status
    name: str
    settings: dict[str, Any]
    method: str
    model: str
    task: str
    seed: int
    versions: dict[str, str]
    hardware: Hardware
    git: Git
    rows: dict[str, Rows] | None = None
    learning_rate: Rate | None = None
    trained_on: dict[str, Any] | None = None
    error: str | None = None
    score: Score | None = None
    metrics: dict[str, float] | None = None
    classes: ClassScores | None = None
    parameters: Parameters | None = None
    flops: Flops | None = None
    time: Time | None = None
    memory: Memory | None = None
    adapter_bytes: int | None = None
    steps: int | None = None
    skipped_steps: int | None = None
    cache: LayerCacheCounts | None = None


def write_record(folder: Path, record: Record) -> None:
    """Writes ``run.json``, whole or not at all; fields not known yet are left out."""
    write_json(folder / FILE, record.model_dump(mode="json", exclude=_unset(record)))


def write_end(folder: Path, record: Record) -> None:
    """Writes how a run has ended that is not done, as well as it can be written: on a full disk, into the record that
    is there, as long as the word fits."""
    try:
        write_record(folder, record)
    except TapertuneError:
        path = folder / FILE
        with suppress(OSError), path.open("rb+") as file:
            start = file.read().find(_RUNNING)
            if start >= 0:
                file.seek(start)
                file.write(_FAILED)


def read_record(folder: Path) -> Record:
    """Reads a run folder's ``run.json``.

    Raises:
        TapertuneError: there is none, it is not JSON, it is of a newer schema, or a field is wrong.
    """
    path = folder / FILE
    data = read_json(path)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise TapertuneError(f"{path}: not a run's record: it has no schema_version")
    if version > VERSION:
        raise TapertuneError(f"{path}: schema {version}; this tapertune reads up to {VERSION}")
    return validated(Record, data, path)


def validated(kind: type[_Model], data: Any, path: Path) -> _Model:
    """What a file holds, as a model of that kind.

    Raises:
        TapertuneError: a field is wrong; the first one is named.
    """
    try:
        return kind.model_validate_json(json.dumps(data), strict=True)
    except RecursionError as error:
        raise TapertuneError(f"{path}: it is nested too deeply") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        value = "" if first["type"] == "missing" else f" is {shown(first['input'])}"
        raise TapertuneError(f"{path}: {field}{value}: {first['msg']}") from error


def _unset(record: Record) -> set[str]:
    optional = (
        "rows", "learning_rate", "trained_on", "error", "score", "metrics", "classes", "parameters", "flops", "time",
        "memory", "adapter_bytes", "steps", "skipped_steps", "cache",
    )  # fmt: skip
    return {name for name in optional if getattr(record, name) is None}
