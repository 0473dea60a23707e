from __future__ import annotations

from tapertune.bench.results import Git
from tapertune.bench.speed.models import Base
from tapertune.bench.speed.schema import Origin
from tapertune.bench.speed.setting import Setting
from tapertune.bench.speed.taper import TAPERS, taper


def test_a_run_ends_with_less_that_trains(base: Base, setting: Setting) -> None:
    origin = Origin(source="x", git=Git(commit=None, dirty=None))
    done: list[None] = []
    for subject in TAPERS:
        run = taper(
            base, subject, "bert-2x128", setting, origin, steps=12, bins=4, progress=lambda: done.append(None)
        )  # fmt: skip
        assert [(one.first, one.last) for one in run.bins] == [(0, 2), (3, 5), (6, 8), (9, 11)]
        assert [one.ratio.rounds for one in run.bins] == [3] * 4
        trained = [one.trained for one in run.bins]
        assert trained == sorted(trained, reverse=True) and trained[0] > trained[-1]
    assert len(done) == 12 * len(TAPERS)
