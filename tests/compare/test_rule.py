"""The rule's rate for a record is the one that the run would have taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare.records import record_for
from compare.tiny_grid import comparison_of
from transformers import AutoModelForSequenceClassification

import tapertune
from tapertune.compare.auto import auto_jobs, auto_result
from tapertune.compare.points import Point
from tapertune.compare.record import RunRecord
from tapertune.compare.rule import rule_of
from tapertune.compare.selection import cell_of
from tapertune.methods import METHODS


def record_of(root: Path, row: str) -> tuple[RunRecord, float | None]:
    comparison = comparison_of(root, (row,), reference=row)
    point = comparison.points[row][0]
    job = comparison.job(row, "sst2", point, 1)
    kept = ("dtype", "quantization", "method", "plan", "training", "head")  # of a record, as runs leave it
    settings = {name: value for name, value in job.settings.items() if name in kept}
    record = record_for(comparison, row, "sst2", point, 1, selection=0.5, test=0.5, settings=settings)
    rule = rule_of(comparison)
    assert rule is not None
    return record, rule(record)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_method_s_rule(root: Path, method: str) -> None:
    _, rate = record_of(root, method)
    model = AutoModelForSequenceClassification.from_pretrained(root / "model")
    assert rate == tapertune.suggest_learning_rate(model, tapertune.make_config(method), 10, 8)


def test_full_fine_tuning_has_one_and_peft_s_rows_have_none(root: Path) -> None:
    assert record_of(root, "full")[1] is not None
    assert record_of(root, "peft-lora")[1] is None


def test_auto_is_run_after_the_screen_and_never_chosen(root: Path) -> None:
    comparison = comparison_of(root, {"lora": None}, seeds=[1, 2], best=1, auto=True)
    low, high = comparison.points["lora"]
    assert comparison.count() == 2 + 1 + 2
    records = {}

    def made(point: Point, seed: int, score: float) -> None:
        record = record_for(comparison, "lora", "sst2", point, seed, selection=score, test=score)
        records[record.digest] = record

    def left() -> list[tuple[float, int]]:
        return [(job.point.rate, job.seed) for job in auto_jobs(comparison, records, lambda record: 4e-3)]

    made(low, 1, 0.6)
    assert left() == []  # the screen comes first
    made(high, 1, 0.7)
    assert left() == [(4e-3, 1)]
    made(Point(rate=4e-3), 1, 0.9)
    made(high, 2, 0.7)
    assert left() == [(4e-3, 2)] and not list(auto_jobs(comparison, records, None))
    cell = cell_of(comparison, records, "lora", "sst2")
    assert cell.chosen is not None and cell.chosen[0] == high
    result = auto_result(comparison, records, cell, lambda record: 4e-3)
    assert result is not None and result.gap is not None and result.gap.value == pytest.approx(0.2)
    assert not list(auto_jobs(comparison_of(root, {"lora": None}, seeds=[1, 2]), records, lambda record: 4e-3))
