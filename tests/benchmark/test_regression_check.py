"""The check's exact part on the code as it is; its other part runs in ``make bench-smoke``."""

from __future__ import annotations

from pathlib import Path

import pytest
from versions import rebuilds

from tapertune.benchmark.base_models import make_base
from tapertune.benchmark.counts import count
from tapertune.benchmark.regression_check import CHECKED, MARGIN, MODEL, differences, judge, recorded
from tapertune.benchmark.schema import Counts, Measurement, Spread
from tapertune.benchmark.setting import Setting
from tapertune.benchmark.variants import build
from tapertune.errors import TapertuneError

RECORD = Path(__file__).parents[2] / "benchmarks" / "speed" / "smoke.json"


def beyond(old: Measurement, counts: Counts, floor: Counts) -> Measurement:
    changed = {
        "counts": counts,
        "saved_bytes_beyond": counts.saved_bytes - floor.saved_bytes,
        "flops_beyond": counts.flops - floor.flops,
    }
    return old.model_copy(update=changed)


@rebuilds
def test_counts_are_the_records() -> None:
    record = recorded(RECORD)
    base = make_base(MODEL, Setting.model_validate({}))
    floor = count(build("floor", base))
    found = {name: differences(record[name], beyond(record[name], count(build(name, base)), floor)) for name in CHECKED}
    assert not any(found.values()), f"{found}\nif this is meant: make bench-record"


def test_a_ratio_may_exceed_the_record_by_spread_and_margin() -> None:
    old = recorded(RECORD)["ours-lora"]
    limit = old.ratio.median + (old.ratio.high - old.ratio.low) + MARGIN

    def of(median: float) -> Measurement:
        return old.model_copy(update={"ratio": Spread(median=median, low=median, high=median, rounds=9)})

    assert judge(old, of(limit - 0.001)).passed
    assert not judge(old, of(limit + 0.001)).passed
    assert judge(old, of(limit + 0.001), timed=False).passed


def test_one_byte_more_fails() -> None:
    old = recorded(RECORD)["ours-lora"]
    verdict = judge(old, old.model_copy(update={"saved_bytes_beyond": old.saved_bytes_beyond + 1}))
    assert not verdict.passed and "saved_bytes" in verdict.differing[0]


def test_a_record_without_a_subject_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "smoke.json"
    path.write_text(RECORD.read_text().replace('"ours-lora2"', '"ours-other"'))
    with pytest.raises(TapertuneError, match="no record of ours-lora2: make bench-record"):
        recorded(path)
