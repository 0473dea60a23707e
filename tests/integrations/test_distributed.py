"""Two processes under DistributedDataParallel: the same matrices freeze on both, and the reducer goes on."""

from __future__ import annotations

from pathlib import Path

import torch
from ddp_worker import worker
from processes import together


def test_freezing_under_ddp(tmp_path: Path) -> None:
    together(worker, (str(tmp_path),))
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one["frozen"] == two["frozen"]
    for name, value in one["weights"].items():
        assert torch.equal(value, two["weights"][name])
