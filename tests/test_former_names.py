"""``tapertune.bench`` leads to the rooms that it has become, for one release."""

from __future__ import annotations

import subprocess
import sys

import pytest

# of every kind: same name, other name, a package, inside it, and names that are others inside
MODULES = {
    "settings": "runfile.settings",
    "machine": "runfile.environment",
    "costs": "cost.estimated",
    "runner": "train.runner",
    "processes": "train.distributed",
    "sharding": "train.distributed",
    "speed": "benchmark",
    "speed.runner": "benchmark.job",
    "speed.show.page": "benchmark.show.page",
}
NAMES = {
    "recipes.check_recipe": "cost.recipes.check_recipe",
    "quantized.sizes": "cost.weights.sizes",
    "quiet.quiet": "train.suppress_logging.suppress_logging",
    "trained.Folder": "train.trained_folder.TrainedFolder",
    "speed.contestant.floor": "benchmark.candidate.frozen_reference",
    "speed.subjects.SUBJECTS": "benchmark.variants.VARIANTS",
    "speed.taper.TAPERS": "benchmark.full_run.FULL_RUNS",
}


CHECK = f"""
import importlib
find = importlib.import_module
for former, present in {MODULES}.items():
    assert find(f"tapertune.bench.{{former}}") is find(f"tapertune.{{present}}"), former
    assert find(f"tapertune.{{present}}").__spec__.name == f"tapertune.{{present}}"
for former, present in {NAMES}.items():
    (old, name), (new, other) = former.rsplit(".", 1), present.rsplit(".", 1)
    assert getattr(find(f"tapertune.bench.{{old}}"), name) is getattr(find(f"tapertune.{{new}}"), other), former
from tapertune.bench import _MODULES, _NAMES, _pairs, machine, runner, speed
from tapertune.bench.speed.show import page
assert len([find(name) for name in _MODULES]) >= 50
for name, text in _NAMES.items():
    assert all(hasattr(find(f"tapertune.bench.{{name}}"), former) for former in _pairs(text)), name
"""


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, input=text, timeout=120)


def test_modules_and_names_are_the_same_under_both_names() -> None:
    done = run("-c", CHECK)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("former", ["tapertune.bench", "tapertune.bench.settings"])
def test_the_former_name_warns_and_is_light(former: str) -> None:
    done = run("-W", "always", "-c", f"import {former}, sys; print('torch' in sys.modules)")
    assert "<string>:1: DeprecationWarning: tapertune.bench is now" in done.stderr
    assert done.stdout.strip() == "False"


@pytest.mark.slow
@pytest.mark.parametrize("module", ["tapertune.train", "tapertune.bench"])
def test_a_run_in_a_process_of_its_own(module: str) -> None:
    done = run("-m", module, text="modle: x")
    assert done.returncode == 2 and "did you mean 'model'" in done.stderr
    assert ("DeprecationWarning" in done.stderr) is (module == "tapertune.bench")
