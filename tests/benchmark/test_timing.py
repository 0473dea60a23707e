from __future__ import annotations

import gc
import time
from typing import Any

from tapertune.benchmark.setting import Setting
from tapertune.benchmark.timing import clock_of, no_collection, now_of, ratios, spread, time_rounds

Steps = list[str]


class Steps_:
    def __init__(self, name: str, seen: Steps) -> None:
        self.name, self.seen = name, seen

    def step(self) -> None:
        assert not gc.isenabled()
        self.seen.append(self.name)


def test_every_round_has_all_in_an_order_of_its_own(setting: Setting) -> None:
    seen: Steps = []
    candidates: Any = {name: Steps_(name, seen) for name in "abcd"}
    times = time_rounds(candidates, setting, rounds=6)
    rounds = [seen[i : i + 4] for i in range(0, 24, 4)]
    assert all(sorted(one) == list("abcd") for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert {len(values) for values in times.values()} == {6}
    assert gc.isenabled()


def test_one_thread_counts_work_and_not_waiting(setting: Setting) -> None:
    assert clock_of(setting)(lambda: time.sleep(0.05)) < 0.02
    assert now_of(setting.model_copy(update={"threads": 2})) is time.perf_counter


def test_the_collector_is_back_after_an_error() -> None:
    try:
        with no_collection():
            raise RuntimeError
    except RuntimeError:
        assert gc.isenabled()


def test_ratios_and_their_spread() -> None:
    assert ratios([2.0, 3.0], [1.0, 2.0]) == [2.0, 1.5]
    found = spread([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found.median, found.low, found.high, found.rounds) == (3.0, 2.0, 4.0, 5)
    assert spread([1.5]).high == 1.5
