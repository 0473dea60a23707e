from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from versions import rebuilds

from tapertune.benchmark import job as job_module
from tapertune.benchmark.job import Job, _groups, measure, source_digest
from tapertune.benchmark.schema import read_speed
from tapertune.benchmark.setting import Setting

LABELS: list[str] = []


def announce(label: str, steps: int) -> Callable[[], None]:
    LABELS.append(label)
    return lambda: None


@pytest.fixture
def job(tmp_path: Path, setting: Setting) -> Job:
    LABELS.clear()
    return Job(
        models=["bert-2x128"], variants=["floor", "peft-lora", "ours-aflora"], setting=setting, rounds=2,
        out=tmp_path / "speed.json", peak=False, full_run_steps=10,
    )  # fmt: skip


@rebuilds
def test_measures_and_goes_on_where_it_was_stopped(job: Job) -> None:
    session = measure(job, announce)
    assert [m.subject for m in session.measurements] == ["floor", "peft-lora", "ours-aflora"]
    floor, theirs, ours = session.measurements
    assert (floor.saved_bytes_beyond, floor.flops_beyond) == (0, 0)
    assert 0 < ours.saved_bytes_beyond < theirs.saved_bytes_beyond
    assert theirs.controller_seconds is None and ours.controller_seconds is not None and ours.controller_share
    assert ours.ratio.rounds == 2 and ours.ratio.median > 0
    [full_run] = session.tapers
    assert full_run.bins[0].first == 0 and full_run.bins[-1].last == 9
    assert full_run.bins[0].trained > full_run.bins[-1].trained
    assert read_speed(job.out).sessions == [session]

    LABELS.clear()
    again = measure(dataclasses.replace(job, resume=True, variants=[*job.variants, "ours-sora"]), announce)
    assert LABELS == ["bert-2x128: ours-sora"]
    assert again.measurements[:3] == session.measurements
    assert again.find("bert-2x128", "ours-sora") is not None


def test_other_code_is_measured_anew(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job = dataclasses.replace(job, variants=["floor", "ours-lora"], full_run_steps=0, resume=True)
    before = measure(job, announce).measurements
    monkeypatch.setattr(job_module, "source_digest", lambda: "other")
    after = measure(job, announce).measurements
    assert {m.origin.source for m in before} == {source_digest()} and {m.origin.source for m in after} == {"other"}
    assert len(LABELS) == 2


def test_groups_are_small_even_and_complete() -> None:
    names = [str(i) for i in range(23)]
    groups = list(_groups(names))
    assert [name for group in groups for name in group] == names
    assert {len(group) for group in groups} == {4, 5}
    assert list(_groups([])) == []
