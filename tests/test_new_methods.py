"""A method takes three files: its own, a line in METHODS, its test. Two that are not ours are written into a package
that is not ours either, and keep every promise of the contract without a line changed elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = ("lora_xs", "soft_lora")  # a chain, and an elementwise map of a product


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package ``new_methods`` in it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(
        ROOT / "tests" / "new_methods", folder / "new_methods", ignore=shutil.ignore_patterns("__pycache__")
    )
    (folder / "new_methods" / "__init__.py").touch()
    return folder


def run(package: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(package), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


def pytest_with_rows(package: Path, *arguments: str) -> str:
    """pytest's output, in a process of its own, as PEFT learns the methods when it is imported."""
    options = ("-q", "-p", "new_methods.rows", "-p", "no:cacheprovider", "-p", "no:randomly", "-n", "0", "-rA")
    return run(package, "-m", "pytest", *options, *arguments)


def test_new_methods_keep_the_contract(package: Path) -> None:
    files = sorted(str(path) for path in (ROOT / "tests").glob("test_contract*.py"))
    output = pytest_with_rows(package, *files, "-k", " or ".join(NAMES))
    passed = set(re.findall(r"^PASSED .*::(\w+)\[", output, re.MULTILINE))
    contract = {name for file in files for name in re.findall(r"def (test_\w+)\(name", Path(file).read_text())}
    assert contract and contract <= passed
    assert not re.search("^(SKIPPED|XFAIL|FAILED|ERROR)", output, re.MULTILINE)
    for name in NAMES:
        assert len(re.findall(rf"^PASSED .*\[.*{name}", output, re.MULTILINE)) >= len(contract)


def test_new_methods_own_tests(package: Path) -> None:
    output = pytest_with_rows(package, str(package / "new_methods"))
    assert "3 passed" in output


def test_new_methods_are_listed(package: Path) -> None:
    """By the command, as a config, in the page of methods, and in run files with a learning rate."""
    code = """
import io, pathlib, runpy, sys
import new_methods.rows
import tapertune
from tapertune.cli.main import main
from tapertune.runfile.settings import check_settings
for name in ("lora_xs", "soft_lora"):
    assert main(["methods", name]) == 0
    settings = check_settings({"model": "minilm", "task": "rte", "method": {"name": name, "r": 2}})
    assert settings.training["learning_rate"] == "auto"
assert main(["methods"]) == 0
assert tapertune.LoraXSConfig(r=2).peft_type.value == "TAPERTUNE_LORA_XS"
page = runpy.run_path("docs/generate_methods.py")
print("".join(page["line"](row) for row in tapertune.METHODS.values()))
"""
    output = run(package, "-c", code)
    assert "lora_xs: a small matrix trains between two random ones" in output
    assert "| lora_xs | `LoraXSConfig` | A, R, B | R throughout | 64 |" in output
    assert "| soft_lora | `SoftLoraConfig` | f(B A) | A, B throughout | 30,720 |" in output
    assert "[lora](lora.md)" in output
