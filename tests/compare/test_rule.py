"""The rule's rate for a record is the one that the run would have taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare.records import record_for
from compare.tiny_grid import comparison_of
from transformers import AutoModelForSequenceClassification

import tapertune
from tapertune.compare.record import RunRecord
from tapertune.compare.rule import rule_of
from tapertune.methods import METHODS


def record_of(root: Path, row: str) -> tuple[RunRecord, float | None]:
    comparison = comparison_of(root, (row,), reference=row)
    point = comparison.points[row][0]
    job = comparison.job(row, "sst2", point, 1)
    record = record_for(comparison, row, "sst2", point, 1, selection=0.5, test=0.5, settings=job.settings)
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
