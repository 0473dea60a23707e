"""Choices, intervals and tests on made-up records, against what they have to come to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from compare.records import record_for
from compare.tiny_grid import comparison_of

from tapertune.compare.record import DRAWS, Examples, RunRecord
from tapertune.compare.selection import cell_of, jobs_left
from tapertune.compare.statistics import (
    Difference,
    crossed,
    difference,
    front,
    holm,
    interval,
    rate_curve,
    regret_at,
    summarise,
    wins,
)

SEEDS = (1, 2, 3, 4, 5)


def runs_of(root: Path, row: str, tests: list[float]) -> dict[int, RunRecord]:
    comparison = comparison_of(root, seeds=list(SEEDS))
    point = comparison.points[row][0]
    return {
        seed: record_for(comparison, row, "sst2", point, seed, selection=0.5, test=test)
        for seed, test in zip(SEEDS, tests, strict=False)
    }


def test_an_interval_covers_seeds_and_examples() -> None:
    rng = np.random.default_rng(0)
    examples, seeds = rng.normal(0, 0.01, 400), rng.normal(0, 0.03, (8, 1))
    both = crossed(examples + seeds)
    assert both.std() == pytest.approx(np.hypot(0.01, seeds.std(ddof=1) / np.sqrt(8)), rel=0.15)
    low, high = interval(both)
    assert high - low == pytest.approx(2 * 1.96 * both.std(), rel=0.15)
    assert crossed(examples[None]).std() == examples.std()  # one seed: of other seeds nothing is known


def test_a_difference_is_paired(root: Path) -> None:
    """Two rows that err on almost the same rows differ surely, though each alone is known badly."""
    ours, theirs = runs_of(root, "lora", [0.72, 0.71, 0.73, 0.72, 0.72]), runs_of(root, "head", [0.70] * 5)
    found = difference(ours, theirs)
    assert found is not None and found.value == pytest.approx(0.02, abs=0.002)
    assert found.verdict == "better" and found.interval[0] > 0
    back = difference(theirs, ours)
    assert back is not None and back.verdict == "worse"
    assert difference({1: ours[1]}, {2: theirs[2]}) is None


def test_better_needs_both_the_interval_and_the_adjusted_test() -> None:
    assert Difference(value=0.1, interval=(-0.01, 0.2), p=0.001).verdict == "tie"
    assert Difference(value=0.1, interval=(0.01, 0.2), p=0.06).verdict == "tie"
    assert Difference(value=0.1, interval=(0.01, 0.2), p=0.04).verdict == "better"


def test_noise_is_seldom_called_better(root: Path) -> None:
    """Twenty rows like the reference: Holm's correction keeps all of them ties."""
    rng = np.random.default_rng(1)
    theirs = runs_of(root, "head", list(rng.normal(0.7, 0.01, 5)))
    found = [difference(runs_of(root, "lora", list(rng.normal(0.7, 0.01, 5))), theirs) for _ in range(20)]
    adjusted = holm([each.p for each in found if each is not None])
    assert min(adjusted) > 0.05 and min(each.p for each in found if each is not None) < 0.9


def test_holm() -> None:
    assert holm([]) == [] and holm([0.5]) == [0.5]
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])


def test_equal_points_share_a_front() -> None:
    assert front({"a": (1, 0.8), "b": (1, 0.8), "c": (1, 0.7), "d": (0.5, 0.1)}) == ["d", "a", "b"]


def test_examples_are_kept_whole() -> None:
    right = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    bits = np.packbits(np.array(right, dtype=np.uint8)).tobytes().hex()
    kept = Examples(count=10, bits=bits)
    assert kept.each().tolist() == right
    assert kept.sampled().mean() == pytest.approx(0.6, abs=0.03) and kept.sampled().shape == (DRAWS,)


def test_the_point_is_chosen_by_selection_scores_and_never_by_the_test(root: Path) -> None:
    comparison = comparison_of(root, seeds=[1, 2], rates=[1e-3, 1e-2, 1e-1], best=2)
    low, middle, high = comparison.points["lora"]
    first = [(low, 0.5, 0.99), (middle, 0.9, 0.6), (high, 0.8, 0.7)]
    records = [record_for(comparison, "lora", "sst2", p, 1, selection=s, test=t) for p, s, t in first]
    known = {record.digest: record for record in records}
    left = [(job.point, job.seed) for job in jobs_left(comparison, known) if job.row == "lora"]
    assert left == [(middle, 2), (high, 2)]  # not the lowest, whose test is best
    for point, selection in ((middle, 0.5), (high, 0.9)):
        made = record_for(comparison, "lora", "sst2", point, 2, selection=selection, test=0.1)
        known[made.digest] = made
    (summary,) = summarise(comparison, known)
    assert summary.point == high  # 0.85 on average over seeds against 0.7
    assert summary.mean == pytest.approx(0.4) and summary.seeds == 2 and summary.complete


def test_a_run_that_diverged_or_was_stopped_is_no_finalist(root: Path) -> None:
    comparison = comparison_of(root, seeds=[1, 2], best=2)
    low, high = comparison.points["lora"]
    records = [record_for(comparison, "lora", "sst2", low, 1, selection=None, test=0.0),
               record_for(comparison, "lora", "sst2", high, 1, selection=0.9, test=0.9, stopped="flat")]  # fmt: skip
    known = {record.digest: record for record in records}
    cell = cell_of(comparison, known, "lora", "sst2")
    assert cell.complete and cell.finalists == () and cell.chosen is None
    assert [job.row for job in jobs_left(comparison, known)] == ["head", "head"]
    assert summarise(comparison, known) == []


def test_failed_runs_are_not_waited_for(root: Path) -> None:
    comparison = comparison_of(root, {"lora": None}, seeds=[1, 2])
    low, high = comparison.points["lora"]
    record = record_for(comparison, "lora", "sst2", high, 1, selection=0.9, test=0.9)
    failed = {comparison.job("lora", "sst2", low, 1).digest}
    assert [job.point for job in jobs_left(comparison, {record.digest: record})] == [low]
    assert [(j.point, j.seed) for j in jobs_left(comparison, {record.digest: record}, failed)] == [(high, 2)]


def test_regret_and_wins(root: Path) -> None:
    comparison = comparison_of(root, seeds=list(SEEDS), best=1, rates=[1e-3, 1e-2], reference="head")
    known = {}
    for row, base in (("lora", 0.8), ("head", 0.6)):
        for point, less in zip(comparison.points[row], (0.0, 0.1), strict=True):
            for seed in SEEDS if not less else SEEDS[:1]:
                made = record_for(comparison, row, "sst2", point, seed, selection=base - less, test=base - less)
                known[made.digest] = made
    curve = rate_curve(cell_of(comparison, known, "lora", "sst2"))
    assert [point.regret for point in curve] == pytest.approx([0.0, 0.1])
    assert regret_at(curve, 1e-2**1.25) == pytest.approx(0.05)  # 3.2e-3, halfway between the two
    assert regret_at(curve, 1.0) == pytest.approx(0.1) and regret_at([], 1.0) is None
    assert wins(summarise(comparison, known)) == {"lora": (1, 0, 0)}
