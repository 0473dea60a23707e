"""The store and its claims: whole files, dead owners, and what may not stand in one table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compare.records import record_for
from compare.tiny_grid import comparison_of, raw_grid

from tapertune.compare.claims import STALE, Claims
from tapertune.compare.jobs import Comparison
from tapertune.compare.store import Store
from tapertune.errors import TapertuneError


def filled(root: Path) -> tuple[Comparison, Store]:
    comparison, store = comparison_of(root), Store(root / "store")
    store.prepare(comparison)
    point = comparison.points["lora"][0]
    store.write(record_for(comparison, "lora", "sst2", point, 1, selection=0.5, test=0.5).model_dump(mode="json"))
    return comparison, store


def test_records_come_back_as_they_were_written(root: Path) -> None:
    comparison, store = filled(root)
    (record,) = Store(root / "store").records().values()
    assert record == record_for(comparison, "lora", "sst2", comparison.points["lora"][0], 1, selection=0.5, test=0.5)
    assert store.has(record.digest) and not store.has("other")
    Store(root / "store").prepare(comparison)  # the same again


def test_half_written_files_are_no_records(root: Path) -> None:
    _, store = filled(root)
    (store.folder / "runs" / "abc.json.tmp123").write_text('{"schema_ver')
    assert len(Store(root / "store").records()) == 1


def test_a_store_of_something_else_is_named_and_left_alone(root: Path) -> None:
    _, store = filled(root)
    before = (store.folder / "store.json").read_bytes()
    other = {"sst2": {**raw_grid(root)["tasks"]["sst2"], "train_rows": 19}}
    with pytest.raises(TapertuneError, match=r"tasks.sst2 has 20 train rows, the grid's has 19.*another --store"):
        Store(store.folder).prepare(comparison_of(root, tasks=other))
    header = json.loads(before)
    for change, words in (
        ({"versions": {**header["versions"], "torch": "1.0"}}, "made with torch 1.0"),
        ({"versions": {**header["versions"], "tapertune": "0.0.1"}}, "made with tapertune 0.0.1"),
        ({"model": {"name": "other", "digest": "0123456789"}}, "model is 'other'"),
        ({"schema_version": 99}, "schema 99"),
    ):
        (store.folder / "store.json").write_text(json.dumps({**header, **change}))
        with pytest.raises(TapertuneError, match=words):
            Store(store.folder).prepare(comparison_of(root))
    rows = json.loads(before)
    rows["tasks"]["sst2"]["digests"]["test"] = "other"
    (store.folder / "store.json").write_text(json.dumps(rows))
    with pytest.raises(TapertuneError, match="digest of the rows"):
        Store(store.folder).prepare(comparison_of(root))


def test_a_folder_that_is_no_store_is_refused(root: Path) -> None:
    (root / "store").mkdir()
    (root / "store" / "mine.txt").write_text("")
    with pytest.raises(TapertuneError, match="no store's"):
        Store(root / "store").prepare(comparison_of(root))
    (root / "file").write_text("")
    with pytest.raises(TapertuneError, match="is a file"):
        Store(root / "file").prepare(comparison_of(root))


def test_a_record_under_another_name_is_refused(root: Path) -> None:
    _, store = filled(root)
    (path,) = (store.folder / "runs").iterdir()
    path.rename(path.with_name("0123.json"))
    with pytest.raises(TapertuneError, match="files of a store keep their names"):
        Store(root / "store").records()


def test_a_failure_is_kept_until_the_run_succeeds(root: Path) -> None:
    comparison, store = filled(root)
    point = comparison.points["head"][0]
    record = record_for(comparison, "head", "sst2", point, 1, selection=0.5, test=0.5)
    store.note_failure(record.digest, "head on sst2", "no memory")
    assert json.loads((store.folder / "failures" / f"{record.digest}.json").read_text())["reason"] == "no memory"
    store.write(record.model_dump(mode="json"))
    assert not list((store.folder / "failures").iterdir())


def test_only_one_takes_a_claim(tmp_path: Path) -> None:
    mine, other = Claims(tmp_path), Claims(tmp_path)
    assert mine.take("a") and not other.take("a") and other.take("b")
    other.release("a")  # not its own
    assert not other.take("a")
    mine.release("a")
    assert other.take("a")
    other.release_all()
    assert not list(tmp_path.iterdir())


def test_a_claim_dies_with_its_owner(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from tapertune.compare.claims import Claims;"
        "assert Claims(Path(sys.argv[1])).take('a'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, env=dict(os.environ))
    assert done.returncode == -9 and (tmp_path / "a.claim").is_file()
    assert Claims(tmp_path).take("a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.claim"]


def test_a_claim_of_another_machine_is_left_until_it_is_stale(tmp_path: Path) -> None:
    mine, path = Claims(tmp_path), tmp_path / "a.claim"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1.0, "token": "x"}))
    assert not mine.take("a")
    os.utime(path, (1, path.stat().st_mtime - STALE - 10))
    assert mine.take("a")


def test_a_claim_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    path.write_text("")
    assert not Claims(tmp_path).take("a")
    os.utime(path, (1, path.stat().st_mtime - 60))  # its maker died while it wrote
    assert Claims(tmp_path).take("a")
