"""What a type checker says of code that uses the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """import tapertune

tapertune.AFLoraConfig(r=4, task_type="SEQ_CLS").d_initial + 1
tapertune.AdaLoraConfig(r=4, lora_dropout=0.1)
tapertune.AFLoraConfig(rank=4)
tapertune.NoSuchThing
"""


@pytest.mark.slow
def test_misspelt_names_are_errors(tmp_path: Path) -> None:
    file = tmp_path / "use.py"
    file.write_text(CODE, encoding="utf-8")
    command = [Path(sys.executable).with_name("pyright"), "--pythonpath", sys.executable, file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert 'No parameter named "rank"' in done.stdout and '"NoSuchThing" is not a known attribute' in done.stdout
    assert "2 errors" in done.stdout
