"""PEFT's own tests of custom models, for each method. ``run.py`` runs them, and PEFT's other files, by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tapertune.methods import METHODS

RUN = Path(__file__).with_name("run.py")
NO_SOURCE = 3  # as in run.py
# a few tests on a convolutional model and on one with attention
SOME = "(Conv3d or MHA) and (test_merge_layers or roundtrip or test_training_custom or test_disable_adapters)"


def run(*options: str) -> None:
    done = subprocess.run([sys.executable, str(RUN), "--part", "custom", *options], capture_output=True, text=True)
    if done.returncode == NO_SOURCE:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_some_of_peft_s_tests_pass() -> None:
    """With every method, in one process."""
    run("-k", SOME)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_peft_tests_pass(method: str) -> None:
    run("--method", method)
