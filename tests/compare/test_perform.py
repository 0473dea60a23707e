"""One run of each kind of row: what its record holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compare.tiny_grid import comparison_of

from tapertune.compare.jobs import Job
from tapertune.compare.perform import perform
from tapertune.compare.record import DRAWS, RunRecord
from tapertune.methods import METHODS

SPECIAL = {
    "peft-lora": {"name": "peft-lora", "r": 4},
    "peft-dora": {"name": "peft-dora", "r": 4},
    "peft-vera": {"name": "peft-vera", "r": 4},
    "peft-adalora": {"name": "peft-adalora", "init_r": 4, "target_r": 2, "deltaT": 1},
    "compressed-lora": {"name": "compressed-lora", "r": 8, "to": 2},
}


def first_job(root: Path, row: str, method: Any, **changes: Any) -> Job:
    comparison = comparison_of(root, {row: {"method": method}}, **changes)
    return comparison.job(row, "sst2", comparison.points[row][-1], 1)


def record_of(root: Path, row: str, method: Any, **changes: Any) -> RunRecord:
    return RunRecord.model_validate(perform(first_job(root, row, method, **changes), root / "scratch")[0])


@pytest.mark.parametrize("name", [*METHODS, "full", "head", *SPECIAL])
def test_a_run_of_every_row_has_a_whole_record(root: Path, name: str) -> None:
    record = record_of(root, name, SPECIAL.get(name, name))
    assert record.status == "done" and record.selection and record.test and record.test.examples
    assert record.test.value == pytest.approx(record.test.examples.each().mean())
    assert record.test.examples.sampled().shape == (DRAWS,)
    assert record.selection.examples is None and record.selection.count == 8 and record.test.count == 40
    assert record.flops and record.flops > 0 and record.peak_bytes > 2**20 and record.adapter_bytes
    assert record.parameters is not None and (record.parameters.start > 0) == (name != "head")
    assert record.steps == 3 and len(record.losses) == 3 and record.train_cpu_seconds
    assert str(root) not in record.model_dump_json()
