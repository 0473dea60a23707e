"""Step time as a ratio to the floor: all candidates step in each round, in random order."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from .candidate import Candidate
from .schema import Spread
from .setting import Setting

Seconds = dict[str, list[float]]


def now_of(setting: Setting) -> Callable[[], float]:
    """The clock of a setting, in seconds. A GPU's work is waited for; ``clock_of`` times it without the wait's own."""
    if setting.device == "cuda":
        return _synchronised
    return time.process_time if setting.threads == 1 else time.perf_counter


def clock_of(setting: Setting) -> Callable[[Callable[[], Any]], float]:
    """A function that runs another and returns the seconds it took."""
    if setting.device == "cuda":
        return _cuda_seconds
    now = now_of(setting)

    def seconds(run: Callable[[], Any]) -> float:
        begin = now()
        run()
        return now() - begin

    return seconds


def _synchronised() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def _cuda_seconds(run: Callable[[], Any]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def time_rounds(
    candidates: Mapping[str, Candidate],
    setting: Setting,
    rounds: int,
    *,
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> Seconds:
    """Seconds of each candidate's step in each round."""
    seconds = clock_of(setting)
    order, draw = list(candidates), random.Random(seed)
    times: Seconds = {name: [] for name in candidates}
    for _ in range(rounds):
        draw.shuffle(order)
        with no_collection():
            for name in order:
                times[name].append(seconds(candidates[name].step))
                progress()
    return times


@contextmanager
def no_collection() -> Iterator[None]:
    """Keeps Python's garbage collector out of what is timed; it runs before instead."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def spread(values: Sequence[float]) -> Spread:
    """Median and inner quartiles.

    >>> spread([1.0, 1.1, 1.2, 1.3, 9.0])
    Spread(median=1.2, low=1.1, high=1.3, rounds=5)
    """
    if len(values) == 1:
        return Spread(median=values[0], low=values[0], high=values[0], rounds=1)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median=middle, low=low, high=high, rounds=len(values))


def ratios(times: Sequence[float], floor: Sequence[float]) -> list[float]:
    """Of each round to the floor of the same round."""
    return [value / base for value, base in zip(times, floor, strict=True)]
