"""Ranks that are too large for a layer, or for the memory."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import mlp

from tapertune import METHODS, TapertuneError, make_config
from tapertune.host import ranks


def adapted(method: str, rank: int, **fields: Any) -> Any:
    return get_peft_model(mlp(), make_config(method, target_modules=["0", "2"], r=rank, **fields))


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_that_does_not_fit_in_memory(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1048576\n")
    monkeypatch.setattr(ranks, "_GROUP_LIMITS", (str(tmp_path / "memory.max"),))
    adapted(method, 100)
    name = METHODS[method].rank
    with pytest.raises(
        TapertuneError, match=rf"^{name} is 100000; the adapter would take [0-9.]+ MiB.* 1.0 MiB: at most"
    ):
        adapted(method, 100_000)
    with torch.device("meta"):  # takes none
        get_peft_model(
            torch.nn.Sequential(torch.nn.Linear(6, 10)), make_config(method, target_modules=["0"], r=100_000)
        )


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_whose_penalty_does_not_fit(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter takes less than 1 MiB; products of its vectors with each other, 8 MB."""
    (tmp_path / "memory.max").write_text("1048576\n")
    monkeypatch.setattr(ranks, "_GROUP_LIMITS", (str(tmp_path / "memory.max"),))
    if method not in ("adalora", "lora2"):
        adapted(method, 1000)
        return
    with pytest.raises(TapertuneError, match=r"^init_r is 1000; the penalty .* 7.6 MiB, .* 1.0 MiB: at most 362 fits"):
        adapted(method, 1000)
    adapted(method, 1000, plan={"penalties": []})


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_above_the_width(method: str, caplog: pytest.LogCaptureFixture) -> None:
    scope = {"projection_scope": "all"} if method == "aflora" else {}
    with caplog.at_level(logging.WARNING, "tapertune"):
        adapted(method, 4, **scope)
        assert not caplog.messages
        adapted(method, 5, **scope)
    found = caplog.messages
    if method == "elora":  # its projections are random and never train: they may be wider than the layer
        assert not found
        return
    name = METHODS[method].rank
    assert found == [
        f"{name} is 5, above the width of 1 of 2 layers, such as '2' (10 to 4): an update there has rank 4 at most, and"
        " what is beyond 4 only costs"
    ]


def test_memory_is_what_the_process_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1048576\n")
    monkeypatch.setattr(ranks, "_GROUP_LIMITS", (str(limit),))
    assert ranks.memory_of(torch.device("cpu")) == 2**20
    with pytest.raises(
        TapertuneError, match=r"r is 100000; .* 22.9 MiB with its gradients, and .* is 1.0 MiB: at most 4369"
    ):
        adapted("lora", 100_000)
    limit.write_text("max\n")
    assert (ranks.memory_of(torch.device("cpu")) or 0) > 2**20


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_whoever_may_read_new_files_may_read_weights(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        adapted("lora", 2).save_pretrained(tmp_path / "adapter")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "adapter").iterdir()}
    assert set(modes) >= {"adapter_config.json", "adapter_model.safetensors"}
    assert set(modes.values()) == {0o666 & ~mask}
