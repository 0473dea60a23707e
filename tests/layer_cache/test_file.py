"""Rows in a file: limits, a full disk, and what a later run finds, misses or is refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from layer_cache.families import batches, family, freeze_below, same, train

import tapertune
from tapertune.errors import TapertuneError
from tapertune.layer_cache.cache import LayerCache
from tapertune.layer_cache.settings import CacheSettings, in_bytes
from tapertune.layer_cache.store import Store

ROWS = {bytes([number]) * 16: torch.full((3, 4), float(number)) for number in range(10)}  # of 48 bytes
TAGS = ["a", "b", "d"]


def store(lines: list[str], **settings: Any) -> Store:
    return Store(CacheSettings(**settings), lines.append)


def test_limits_are_kept(tmp_path: Path) -> None:
    lines: list[str] = []
    kept = store(lines, memory=100, disk=1000, folder=str(tmp_path))
    for key, states in ROWS.items():
        kept.write(key, states, 2, "d")
    assert kept.memory_bytes == 96 and kept.disk_bytes <= 1000 and kept.rows == 10
    assert all(torch.equal(kept.read(key), states) for key, states in ROWS.items())  # type: ignore[arg-type]
    full = store(lines, memory=100, disk=100)
    for key, states in ROWS.items():
        full.write(key, states, 2, "d")
    assert full.rows == 4 and [full.level(key, TAGS) for key in ROWS] == [2] * 4 + [0] * 6
    for key, states in list(ROWS.items())[:4]:
        full.write(key, states + 1, 3, "d")  # carried up, in the room that they have
        assert torch.equal(full.read(key), states + 1)  # type: ignore[arg-type]
    assert full.rows == 4 and not lines
    assert full.level(next(iter(ROWS)), TAGS) == 0  # of a later layer than the one that is asked for


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The system refuses files to grow beyond a size, as a full disk does."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_is_one_line_and_training_goes_on() -> None:
    def trained(lines: list[str], **settings: Any) -> dict[str, torch.Tensor]:
        model = family("bert")
        freeze_below(model, 2)
        cache = LayerCache(model, CacheSettings(**settings), lines.append)
        with no_file_beyond(1000):
            weights = train(model, batches("bert"), 3)
        assert cache.summary()["hits"] > 0 or not settings["disk"]
        cache.close()
        return weights

    lines: list[str] = []
    kept = trained(lines, memory=0, disk="1GB")
    assert len(lines) == 1 and "no further rows are kept, training goes on" in lines[0]
    assert same(kept, trained(lines, memory=0, disk=0))
    assert len(lines) == 1


def run(folder: Path, *, weight: float = 0.0, level: int = 2, epochs: int = 1) -> tuple[dict[str, Any], Any]:
    """The counts of a run in a folder, and its weights."""
    model = family("bert")
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[3, 5] += weight  # type: ignore[union-attr]
    freeze_below(model, level)
    cache = tapertune.cache_layers(model, memory=2000, disk="1MB", folder=str(folder))
    weights = train(model, batches("bert"), epochs)
    cache.close()
    return cache.summary(), weights


def test_a_later_run_finds_rows_of_the_same_layers_alone(tmp_path: Path) -> None:
    first, weights = run(tmp_path)
    assert (first["hits"], first["misses"]) == (0, 9)
    again, other = run(tmp_path)
    assert (again["hits"], again["misses"]) == (9, 0) and same(weights, other)
    higher, _ = run(tmp_path, level=3)
    assert (higher["carried"], higher["misses"]) == (9, 0)
    changed, _ = run(tmp_path, weight=1e-3)
    assert (changed["hits"], changed["misses"]) == (0, 9)


def cut_short(folder: Path) -> None:
    path = folder / "rows-0.bin"
    path.write_bytes(path.read_bytes()[:300])


def other_bytes(folder: Path) -> None:
    path = folder / "rows-0.bin"
    path.write_bytes(path.read_bytes()[:150] + b"\0" * 10_000)


def other_shapes(folder: Path) -> None:
    _edit(folder, lambda place: place | {"shape": [1, 1, place["shape"][0] * place["shape"][1]]})


def other_digest(folder: Path) -> None:
    _edit(folder, lambda place: place | {"digest": "0" * 32})


def beyond_the_end(folder: Path) -> None:
    _edit(folder, lambda place: place | {"offset": 1 << 40})


def no_index(folder: Path) -> None:
    (folder / "rows-0.json").write_text("{ not json")


def _edit(folder: Path, change: Any) -> None:
    path = folder / "rows-0.json"
    saved = json.loads(path.read_text())
    saved["rows"] = {key: change(place) for key, place in saved["rows"].items()}
    path.write_text(json.dumps(saved))


@pytest.mark.parametrize("damage", [cut_short, other_bytes, other_shapes, other_digest, beyond_the_end, no_index])
def test_damaged_rows_are_missed(tmp_path: Path, damage: Any) -> None:
    _, weights = run(tmp_path)
    damage(tmp_path)
    counts, other = run(tmp_path)
    assert counts["misses"] > 0 and counts["hits"] + counts["misses"] == 9
    assert same(weights, other)


def test_what_is_no_folder_of_rows_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(TapertuneError, match="cannot be used"):
        store([], disk=100, folder=str(file))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "rows-0.bin").write_text("mine")
    with pytest.raises(TapertuneError, match=r"rows-0.bin, which is no file of rows"):
        store([], disk=100, folder=str(tmp_path / "a"))
    assert (tmp_path / "a" / "rows-0.bin").read_text() == "mine"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "rows-0.json").write_text('{"kind": "mine"}')
    with pytest.raises(TapertuneError, match=r"rows-0.json, which is no index of rows"):
        store([], disk=100, folder=str(tmp_path / "c"))
    pytest.importorskip("fcntl")
    first = store([], disk=100, folder=str(tmp_path / "b"))
    with pytest.raises(TapertuneError, match="in use by another run"):
        store([], disk=100, folder=str(tmp_path / "b"))
    first.close()
    store([], disk=100, folder=str(tmp_path / "b")).close()


@pytest.mark.parametrize("wrong", ["", "GiB", "1.5.2GiB", "-1", "1 XB", True, None, 1.5, -1, 1 << 63, "9" * 30 + "TB"])
def test_sizes_that_are_none(wrong: Any) -> None:
    with pytest.raises(TapertuneError, match=r"cache.disk is .*such as 2GiB"):
        in_bytes("cache.disk", wrong)
