"""Two processes under Trainer: what is frozen or pruned is sent no more, and the run is that of one process."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from integrations.trainer_worker import PLANS, train, worker
from processes import together


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together(worker, (str(folder), port))
    return folder


@pytest.mark.parametrize("method", PLANS)
def test_trainer_sends_what_trains(folder: Path, method: str, tmp_path: Path) -> None:
    one = train(method, tmp_path, 1)
    first, second = (torch.load(folder / f"{method}-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["sent"] == second["sent"]
    assert first["sent"][0] > first["sent"][-1] == first["left"] == one["left"]
    for result in (first, second):
        assert (result["frozen"], result["ranks"]) == (one["frozen"], one["ranks"])
        torch.testing.assert_close(result["weights"], one["weights"], atol=1e-6, rtol=0)
