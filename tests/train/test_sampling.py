from __future__ import annotations

import itertools
import random

from tapertune.train.sampling import GroupedByLength

LENGTHS = random.Random(0).choices(range(3, 100), k=300)


def padding(order: list[int], batch: int = 8) -> int:
    batches = [[LENGTHS[i] for i in order[start : start + batch]] for start in range(0, len(order), batch)]
    return sum(max(lengths) * len(lengths) - sum(lengths) for lengths in batches)


def test_little_is_padding_and_nothing_is_lost() -> None:
    order = list(GroupedByLength(LENGTHS, 8, seed=1))
    assert sorted(order) == list(range(300))
    assert padding(order) < 0.25 * padding(list(range(300)))


def test_length_does_not_drift() -> None:
    order = list(GroupedByLength(LENGTHS, 8, seed=1))
    means = [sum(LENGTHS[i] for i in order[at : at + 8]) / 8 for at in range(0, 296, 8)]
    assert max(LENGTHS) in [LENGTHS[i] for i in order[:8]]
    falls = sum(a > b for a, b in itertools.pairwise(means[1:]))
    assert 10 < falls < 25  # of 35; sorted batches would fall nearly always
    assert [len(list(GroupedByLength([5] * n, 8, seed=1))) for n in (1, 8, 9)] == [1, 8, 9]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first, again = GroupedByLength(LENGTHS, 8, seed=1), GroupedByLength(LENGTHS, 8, seed=1)
    assert list(first) == list(first) == list(again)
    again.set_epoch(1)
    assert list(again) != list(first)
    again.set_epoch(0)
    assert list(again) == list(first)
    assert list(GroupedByLength(LENGTHS, 8, seed=2)) != list(first)
