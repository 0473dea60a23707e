"""From the comparison's records to its tables. Reads JSON lines and imports nothing but the standard library.

A record is one run; a cell is all runs of one method on one task. The learning rate of a cell is chosen by the scores
on the selection sample with the first seed, and by nothing else; the cell's result is the official validation score of
that rate over all seeds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]
SEEDS = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What tells one run from another."""

    task: str
    method: str
    rate: float
    seed: int


def run_of(record: Record) -> Run:
    return Run(task=record["task"], method=record["method"], rate=record["rate"], seed=record["seed"])


def read_records(path: Path) -> list[Record]:
    """All records of a file; none where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def chosen_rate(records: Iterable[Record], task: str, method: str, rates: Sequence[float]) -> float | None:
    """The rate with the best selection score of the first seed, the smallest of several; None until all have run, or
    if every one of them diverged."""
    scores = {r["rate"]: r["selection"] for r in _cell(records, task, method) if r["seed"] == SEEDS[0]}
    if not set(rates) <= set(scores):
        return None
    kept = [rate for rate in sorted(rates) if scores[rate] is not None]
    return max(kept, key=lambda rate: scores[rate], default=None)


def runs_left(records: Sequence[Record], task: str, method: str, rates: Sequence[float]) -> list[Run]:
    """What a cell still needs: its rates with the first seed, and only then the chosen rate with the others."""
    done = {run_of(record) for record in records}
    best = chosen_rate(records, task, method, rates)
    wanted = [(rate, SEEDS[0]) for rate in rates] + [(best, seed) for seed in SEEDS[1:] if best is not None]
    runs = [Run(task=task, method=method, rate=rate, seed=seed) for rate, seed in wanted if rate is not None]
    return [run for run in runs if run not in done]


def overview(records: Sequence[Record], tasks: Sequence[str], grids: dict[str, Sequence[float]]) -> str:
    """Scores of all methods on the tasks of which something is recorded."""
    tasks = [task for task in tasks if any(record["task"] == task for record in records)]
    rows = [[method, *(_score(records, task, method, grids[method]) for task in tasks)] for method in grids]
    return markdown(["method", *tasks], rows)


def details(records: Sequence[Record], task: str, grids: dict[str, Sequence[float]]) -> str:
    """One task: what each rate of a grid reached on the selection sample, and what the chosen one costs."""
    if not any(record["task"] == task for record in records):
        return "Not run yet.\n"
    heads = ["method", "rates: selection score, seed 1", "chosen", "official validation", "trained parameters", "TFLOP",
             "CPU s"]  # fmt: skip
    return markdown(heads, [_detail(records, task, method, rates) for method, rates in grids.items()])


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation of scores, times 100.

    >>> spread([0.80, 0.82, 0.81])
    '81.0 ± 1.0'
    """
    mean = 100 * statistics.fmean(values)
    return f"{mean:.1f} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def short(number: float) -> str:
    """A learning rate as it is written in run files.

    >>> short(3e-05), short(0.01)
    ('3e-5', '1e-2')
    """
    return f"{number:.0e}".replace("e-0", "e-")


def _cell(records: Iterable[Record], task: str, method: str) -> list[Record]:
    return [record for record in records if record["task"] == task and record["method"] == method]


def _chosen(records: Sequence[Record], task: str, method: str, rates: Sequence[float]) -> list[Record]:
    best = chosen_rate(records, task, method, rates)
    return [record for record in _cell(records, task, method) if record["rate"] == best]


def _score(records: Sequence[Record], task: str, method: str, rates: Sequence[float]) -> str:
    found = _chosen(records, task, method, rates)
    scores = [record["test"] for record in found if record["test"] is not None]
    if not scores:
        return "all diverged" if not runs_left(records, task, method, rates) else "not run"
    partly = [f"{len(found)} of {len(SEEDS)} seeds"] if len(found) < len(SEEDS) else []
    diverged = len(found) - len(scores)
    notes = partly + [f"{diverged} diverged"] * bool(diverged)
    return spread(scores) + (f" ({', '.join(notes)})" if notes else "")


def _detail(records: Sequence[Record], task: str, method: str, rates: Sequence[float]) -> list[str]:
    selection = {r["rate"]: r["selection"] for r in _cell(records, task, method) if r["seed"] == SEEDS[0]}
    grid = ", ".join(f"{short(rate)}: {_selected(selection, rate)}" for rate in rates)
    found = [record for record in _chosen(records, task, method, rates) if record["test"] is not None]
    score = _score(records, task, method, rates)
    if not found:
        return [method, grid, "", score, "", "", ""]
    parameters = _parameters([record["parameters"] for record in found])
    flops = [record["flops"] / 1e12 for record in found if record["flops"] is not None]
    seconds = statistics.fmean(record["train_cpu_seconds"] for record in found)
    counted = f"{statistics.fmean(flops):.2f}" if flops else "not counted"
    return [method, grid, short(found[0]["rate"]), score, parameters, counted, f"{seconds:.0f}"]


def _selected(selection: dict[float, float | None], rate: float) -> str:
    if rate not in selection:
        return "not run"
    found = selection[rate]
    return "diverged" if found is None else f"{100 * found:.1f}"


def _parameters(counts: Sequence[dict[str, float]]) -> str:
    """Mean over the seeds: one number where nothing changes in training, else start, average and end."""
    start, average, end = (
        round(statistics.fmean(count[name] for count in counts)) for name in ("start", "average", "end")
    )
    if start == end:
        return f"{start:,}"
    return f"{start:,}, {average:,}, {end:,}"
