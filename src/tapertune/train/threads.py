"""How many threads a run computes with on a processor: as many as were set, or as are quickest on a batch.

Sums are rounded differently by different numbers of threads. So the number is chosen once, before training, kept in
``run.json``, and taken again when the run is resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from ..integrations.digests import same_draws
from ..tasks.kinds import Encoded, get_kind
from . import distributed
from .prepare import Prepared
from .trainer import total_steps

LEAST_STEPS = 40  # a shorter run ends before a choice pays
ROUNDS = 3
LONG = 5.0  # seconds of a pass from which on each number is tried once
NEAR = 0.05  # the smaller number is taken where it is slower by no more than this
SETS = "threads: in the run file (--threads) or OMP_NUM_THREADS sets another number"


@contextmanager
def kept() -> Iterator[None]:
    """The process's number of threads is as before at the end."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def choose(prepared: Prepared, earlier: int | None, free: bool) -> list[str]:
    """Sets the number of threads that a run computes with.

    Args:
        prepared: the run.
        earlier: the number that it began with, if it is resumed.
        free: whether nobody has set the number in this process.

    Returns:
        What to tell of it.
    """
    wanted, now = prepared.settings.threads, torch.get_num_threads()
    if wanted == "auto":
        wanted = now
        if earlier is not None and free:
            wanted = earlier
        elif earlier is None and free and _may_measure(prepared):
            seconds = measure(one_pass(prepared), candidates(now))
            wanted = quickest(seconds)
            torch.set_num_threads(wanted)
            return [_line(seconds, wanted)]
    if wanted != now:
        torch.set_num_threads(wanted)
    if earlier is not None and wanted != earlier:
        return [f"the run began with {earlier} threads and goes on with {wanted}: sums may be rounded differently"]
    return []


def candidates(most: int) -> list[int]:
    """1, half and all of them.

    >>> candidates(1), candidates(2), candidates(8)
    ([1], [1, 2], [1, 4, 8])
    """
    return sorted({1, max(1, most // 2), most})


def measure(step: Callable[[], None], counts: Sequence[int]) -> dict[int, float]:
    """Seconds of a step by number of threads, in turns so that all of them meet the same neighbours."""
    step()  # what is done once only, such as compiling a kernel
    total = dict.fromkeys(counts, 0.0)
    turns = 0
    while turns < ROUNDS and min(total.values()) < LONG * max(1, turns):
        turns += 1
        for count in counts:
            torch.set_num_threads(count)
            began = time.perf_counter()
            step()
            total[count] += time.perf_counter() - began
    return {count: seconds / turns for count, seconds in total.items()}


def quickest(seconds: dict[int, float]) -> int:
    """The number of threads to take.

    >>> quickest({1: 1.0, 2: 0.5, 4: 0.49}), quickest({1: 1.0, 2: 2.0})
    (2, 1)
    """
    best = min(seconds.values())
    return min(count for count, taken in seconds.items() if taken <= best * (1 + NEAR))


def one_pass(prepared: Prepared) -> Callable[[], None]:
    """A forward and a backward pass over a training batch of usual length, which leave model and random numbers as they
    were."""
    args, built, train = prepared.args, prepared.built, prepared.train
    assert isinstance(train, Encoded), "a stream is read once, by its run"
    order = sorted(range(len(train)), key=lambda number: len(train[number]["input_ids"]))
    size = min(args.train_batch_size, len(order))
    rows = [train[order[(2 * i + 1) * len(order) // (2 * size)]] for i in range(size)]
    batch = get_kind(prepared.task.kind).collator(prepared.task, built.tokenizer, train=True)(rows)
    precision = torch.bfloat16 if args.bf16 else None

    def step() -> None:
        trains = built.model.training
        with same_draws():
            built.model.train()
            with nullcontext() if precision is None else torch.autocast("cpu", precision):
                loss: Any = built.model(**batch).loss
            loss.backward()
        built.model.train(trains)
        built.model.zero_grad(set_to_none=True)

    return step


def _may_measure(prepared: Prepared) -> bool:
    """Whether the run is in one process, on the processor, long enough, and has its rows at hand."""
    args, train = prepared.args, prepared.train
    here = all(parameter.device.type == "cpu" for parameter in prepared.built.model.parameters())
    if torch.get_num_threads() == 1 or distributed.total(1) > 1 or not here or args.device.type != "cpu":
        return False
    return isinstance(train, Encoded) and total_steps(args, len(train)) >= LEAST_STEPS


def _line(seconds: dict[int, float], wanted: int) -> str:
    others = ", ".join(f"{taken:.2f} s with {count}" for count, taken in seconds.items() if count != wanted)
    several = "thread" if wanted == 1 else "threads"
    return f"{wanted} {several}, {seconds[wanted]:.2f} s a batch ({others}); {SETS}"
