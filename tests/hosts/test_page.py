"""The page about hosts says what was recorded, and no record of a host that has to work holds a failure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RECORDS = json.loads((HERE / "records.json").read_text(encoding="utf-8"))


def test_the_page_is_written_from_the_records() -> None:
    done = subprocess.run([sys.executable, HERE / "page.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", RECORDS)
def test_nothing_that_was_tried_fails(name: str) -> None:
    checks = RECORDS[name]["checks"]
    assert len(checks) >= 4
    assert not [check for check in checks if not check["works"]]
