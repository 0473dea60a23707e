"""Set-up shared by all tests: no network, few threads, and the recorded runs of the methods' authors."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before any library reads them: nothing is fetched, and parallel workers do not fight over the cores.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
if "TAPERTUNE_CACHE" not in os.environ:  # what runs keep of this machine is not the user's
    os.environ["TAPERTUNE_CACHE"] = tempfile.mkdtemp(prefix="tapertune-tests-")  # workers are started with it
    atexit.register(shutil.rmtree, os.environ["TAPERTUNE_CACHE"], ignore_errors=True)

import pytest

Golden = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of recorded runs: ``TAPERTUNE_GOLDEN`` where set, else ``tests/golden``."""
    return Path(os.environ.get("TAPERTUNE_GOLDEN") or Path(__file__).parent / "golden")


@pytest.fixture(scope="session")
def golden(golden_dir: Path) -> Golden:
    """Loads a recorded run by file name, as a dict of arrays; ``meta_json`` is decoded to ``meta``."""
    import json

    import numpy

    def load(name: str) -> dict[str, Any]:
        with numpy.load(golden_dir / name, allow_pickle=False) as archive:
            arrays: dict[str, Any] = dict(archive.items())
        if "meta_json" in arrays:
            arrays["meta"] = json.loads(str(arrays.pop("meta_json")))
        return arrays

    return load


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Files are not pressed to the disk, which only a power cut would tell; processes that tests start do so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def old_objects_left_alone() -> Iterator[None]:
    """Keeps the garbage collector, which Accelerate calls after each training, from going through what libraries and
    earlier tests have made."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def small_elements(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many elements an input has that layers compute without a node. None here: tests are of small models and
    stand for large ones."""
    from processes import SMALL

    from tapertune.kernels import paths

    def set_to(elements: int) -> None:
        for name in SMALL:
            monkeypatch.setattr(paths, name, elements)

    set_to(0)
    return set_to


@pytest.fixture(scope="session")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and data in it, made once."""
    from train.tiny_run import write_data, write_model

    root = tmp_path_factory.mktemp("tiny")
    write_model(root / "model")
    write_data(root / "data")
    return root


@pytest.fixture
def root(shared_root: Path, tmp_path: Path) -> Path:
    """A folder of the test's own for runs; model and data are linked into it."""
    for name in ("model", "data"):
        (tmp_path / name).symlink_to(shared_root / name)
    return tmp_path
