from __future__ import annotations

import json
from pathlib import Path

import pytest

from tapertune.errors import TapertuneError
from tapertune.integrations.manifest import (
    MANIFEST,
    drop_older,
    find_fault,
    new_checkpoint,
    resume_point,
    whole_checkpoint,
    write_manifest,
)


def checkpoint(folder: Path, step: int, manifest: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "inner").mkdir(parents=True)
    (path / "weights").write_bytes(b"0123456789")
    (path / "inner" / "state").write_bytes(b"abc")
    if manifest:
        write_manifest(path)
    return path


def test_a_whole_one_has_no_fault(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 4)
    assert find_fault(path) is None
    (path / "notes.txt").write_text("mine")  # what is not listed is nobody's fault
    assert find_fault(path) is None


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "weights").unlink(), "weights is missing"),
        (lambda path: (path / "inner" / "state").unlink(), "inner/state is missing"),
        (lambda path: (path / "weights").write_bytes(b"0123"), "weights has 4 bytes and was written with 10"),
        (lambda path: (path / "weights").write_bytes(b"0123456780"), "weights holds other values than were written"),
        (lambda path: (path / MANIFEST).write_text("{"), "its manifest is damaged"),
        (lambda path: (path / MANIFEST).write_text('{"version": 1, "files": ["weights"]}'), "its manifest is damaged"),
        (lambda path: (path / MANIFEST).write_bytes(b"\xff\xfe"), "its manifest cannot be read"),
        (
            lambda path: (path / MANIFEST).write_text('{"version": 1, "files": {"../x": {"size": 1, "sha256": ""}}}'),
            "its manifest is damaged",
        ),
    ],
)
def test_damage_is_named(tmp_path: Path, damage, reason: str) -> None:  # type: ignore[no-untyped-def]
    path = checkpoint(tmp_path, 4)
    damage(path)
    fault = find_fault(path)
    assert fault is not None and fault.reason.startswith(reason) and not fault.cut_short
    assert resume_or_error(tmp_path).startswith(f"no checkpoint in '{tmp_path}' is whole")


def resume_or_error(folder: Path) -> str:
    try:
        return str(resume_point(folder)[0])
    except TapertuneError as error:
        return str(error)


def test_the_newest_whole_one_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert whole_checkpoint(tmp_path) is None
    checkpoint(tmp_path, 8, manifest=False)
    assert whole_checkpoint(tmp_path) is None  # the first of a run, cut short
    for step in (9, 10, 100):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-100" / "weights").unlink()
    assert whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert "checkpoint-100 is passed over: weights is missing" in caplog.text


def test_several_that_were_cut_short_are_damage(tmp_path: Path) -> None:
    for step in (4, 8):
        checkpoint(tmp_path, step, manifest=False)
    with pytest.raises(TapertuneError, match=r"checkpoint-8: it has no manifest.*; checkpoint-4: it has no manifest"):
        resume_point(tmp_path)


def test_an_entry_that_is_gone_is_missed(tmp_path: Path) -> None:
    """The list has a digest of its own; an earlier version's has none and is read."""
    (tmp_path / "weights").write_text("w")
    (tmp_path / "state").write_text("s")
    write_manifest(tmp_path)
    whole = json.loads((tmp_path / MANIFEST).read_text())
    assert find_fault(tmp_path) is None
    less = {**whole, "files": {"weights": whole["files"]["weights"]}}
    (tmp_path / MANIFEST).write_text(json.dumps(less))
    fault = find_fault(tmp_path)
    assert fault is not None and "manifest is damaged" in fault.reason
    del whole["sha256"]
    (tmp_path / MANIFEST).write_text(json.dumps(whole))
    assert find_fault(tmp_path) is None


def test_a_new_one_counts_when_it_is_whole(tmp_path: Path) -> None:
    with new_checkpoint(tmp_path, 2) as path:
        (path / "weights").write_bytes(b"0123")
        assert whole_checkpoint(tmp_path) is None
    assert whole_checkpoint(tmp_path) == str(path)
    with pytest.raises(OSError, match="full"), new_checkpoint(tmp_path, 4) as path:
        (path / "weights").write_bytes(b"01")
        raise OSError("full")
    assert not path.exists() and whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_a_new_one_takes_the_place_of_what_a_kill_has_left(tmp_path: Path) -> None:
    left = checkpoint(tmp_path, 2, manifest=False)
    (left / ".0123456789abcdef.tmp.safetensors").write_bytes(b"half")
    with new_checkpoint(tmp_path, 2) as path:
        assert path == left and not any(path.iterdir())
        (path / "weights").write_bytes(b"0123")
    assert find_fault(path) is None


def test_temporary_files_of_a_killed_process_go(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 2, manifest=False)
    (path / ".0123456789abcdef.tmp.safetensors").write_bytes(b"half")
    write_manifest(path)
    assert sorted(each.name for each in path.iterdir()) == ["inner", MANIFEST, "weights"]


def test_the_older_ones_that_were_to_go_go_later(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path, step) for step in (2, 4, 6, 8)]
    drop_older(paths[2], None)
    drop_older(paths[2], 0)
    drop_older(paths[2], 5)
    assert all(path.exists() for path in paths)
    drop_older(paths[2], 1, best=str(paths[0]))
    assert [path.exists() for path in paths] == [True, False, True, True]
