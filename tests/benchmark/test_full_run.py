from __future__ import annotations

from tapertune.benchmark.base_models import Base
from tapertune.benchmark.full_run import FULL_RUNS, full_run
from tapertune.benchmark.schema import Origin
from tapertune.benchmark.setting import Setting
from tapertune.runfile.record import Git


def test_a_run_ends_with_less_that_trains(base: Base, setting: Setting) -> None:
    origin = Origin(source="x", git=Git(commit=None, dirty=None))
    done: list[None] = []
    for variant in FULL_RUNS:
        run = full_run(
            base, variant, "bert-2x128", setting, origin, steps=12, bins=4, progress=lambda: done.append(None)
        )  # fmt: skip
        assert [(one.first, one.last) for one in run.bins] == [(0, 2), (3, 5), (6, 8), (9, 11)]
        assert [one.ratio.rounds for one in run.bins] == [3] * 4
        trained = [one.trained for one in run.bins]
        assert trained == sorted(trained, reverse=True) and trained[0] > trained[-1]
    assert len(done) == 12 * len(FULL_RUNS)
