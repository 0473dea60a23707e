from __future__ import annotations

import json
from pathlib import Path

import pytest

from tapertune.benchmark.schema import SpeedFile, read_speed, write_speed
from tapertune.benchmark.setting import Setting
from tapertune.errors import TapertuneError
from tapertune.runfile.record import Hardware

HARDWARE = Hardware(cpu="a cpu", cores=2, threads=1, memory_gb=8.0, gpu=None)


def test_reads_what_it_writes(tmp_path: Path, setting: Setting) -> None:
    file = SpeedFile()
    file.session(setting, HARDWARE, {"torch": "2"})
    write_speed(tmp_path / "new" / "speed.json", file)
    assert read_speed(tmp_path / "new" / "speed.json") == file


def test_a_session_goes_on_where_all_is_the_same_and_is_replaced_with_other_versions(setting: Setting) -> None:
    file = SpeedFile()
    first = file.session(setting, HARDWARE, {"torch": "2"})
    assert file.session(setting, HARDWARE, {"torch": "2"}) is first
    two = file.session(setting.model_copy(update={"threads": 2}), HARDWARE, {"torch": "2"})
    newer = file.session(setting, HARDWARE, {"torch": "3"})
    assert file.sessions == [two, newer]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "schema_version is None"),
        (json.dumps({"schema_version": 99}), "schema_version is 99; this tapertune reads 1"),
        (json.dumps({"schema_version": 1, "sessions": [{}]}), "sessions.0.hardware: Field required"),
    ],
)
def test_what_is_no_result_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "speed.json").write_text(text)
    with pytest.raises(TapertuneError, match=message) as found:
        read_speed(tmp_path / "speed.json")
    assert "\n" not in str(found.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TapertuneError, match="cannot read"):
        read_speed(tmp_path / "none.json")
