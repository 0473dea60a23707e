from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapertune.errors import TapertuneError
from tapertune.runfile import environment
from tapertune.runfile.record import Record, read_record, write_record


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "status": "running",
        "name": "a",
        "settings": {"seed": 1},
        "method": "lora",
        "model": "m",
        "task": "rte",
        "seed": 1,
        "versions": environment.versions(),
        "hardware": environment.hardware(),
        "git": environment.git_state(),
    }
    return Record(**{**values, **changes})


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_record(tmp_path, record())
    data = json.loads((tmp_path / "run.json").read_text())
    assert data["schema_version"] == 1
    assert "score" not in data
    assert set(data["versions"]) == {"python", "tapertune", "torch", "transformers", "peft"}
    assert read_record(tmp_path) == record()
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read '.*run.json': No such file"),
        ("{", "run.json: not JSON"),
        ("[]", "it has no schema_version"),
        ('{"schema_version": 2}', "schema 2; this tapertune reads up to 1"),
        ('{"schema_version": 1}', "status: Field required"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(TapertuneError, match=message):
        read_record(tmp_path)


def test_peak_memory_is_that_of_this_process() -> None:
    import psutil

    assert environment.peak_rss_bytes() >= psutil.Process().memory_info().rss * 0.9
