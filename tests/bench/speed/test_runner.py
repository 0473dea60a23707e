from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from versions import rebuilds

from tapertune.bench.speed import runner
from tapertune.bench.speed.runner import Job, _groups, measure, source_digest
from tapertune.bench.speed.schema import read_speed
from tapertune.bench.speed.setting import Setting

TOLD: list[str] = []


def told(label: str, steps: int) -> Callable[[], None]:
    TOLD.append(label)
    return lambda: None


@pytest.fixture
def job(tmp_path: Path, setting: Setting) -> Job:
    TOLD.clear()
    return Job(
        models=["bert-2x128"], subjects=["floor", "peft-lora", "ours-aflora"], setting=setting, rounds=2,
        out=tmp_path / "speed.json", peak=False, taper_steps=10,
    )  # fmt: skip


@rebuilds
def test_measures_and_goes_on_where_it_was_stopped(job: Job) -> None:
    session = measure(job, told)
    assert [m.subject for m in session.measurements] == ["floor", "peft-lora", "ours-aflora"]
    floor, theirs, ours = session.measurements
    assert (floor.saved_bytes_beyond, floor.flops_beyond) == (0, 0)
    assert 0 < ours.saved_bytes_beyond < theirs.saved_bytes_beyond
    assert theirs.controller_seconds is None and ours.controller_seconds is not None and ours.controller_share
    assert ours.ratio.rounds == 2 and ours.ratio.median > 0
    [taper] = session.tapers
    assert taper.bins[0].first == 0 and taper.bins[-1].last == 9
    assert taper.bins[0].trained > taper.bins[-1].trained
    assert read_speed(job.out).sessions == [session]

    TOLD.clear()
    again = measure(dataclasses.replace(job, resume=True, subjects=[*job.subjects, "ours-sora"]), told)
    assert TOLD == ["bert-2x128: ours-sora"]
    assert again.measurements[:3] == session.measurements
    assert again.find("bert-2x128", "ours-sora") is not None


def test_other_code_is_measured_anew(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job = dataclasses.replace(job, subjects=["floor", "ours-lora"], taper_steps=0, resume=True)
    before = measure(job, told).measurements
    monkeypatch.setattr(runner, "source_digest", lambda: "other")
    after = measure(job, told).measurements
    assert {m.origin.source for m in before} == {source_digest()} and {m.origin.source for m in after} == {"other"}
    assert len(TOLD) == 2


def test_groups_are_small_even_and_complete() -> None:
    names = [str(i) for i in range(23)]
    groups = list(_groups(names))
    assert [name for group in groups for name in group] == names
    assert {len(group) for group in groups} == {4, 5}
    assert list(_groups([])) == []
