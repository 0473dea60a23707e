"""Several processes: DistributedDataParallel with re-entrant checkpointing, and FSDP2's sharded parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from adalora_defects import workers
from adalora_defects.side import QUIET, SHOW_PEFT, Follower, adamw, make, ranks, train
from processes import together
from versions import shards

pytestmark = QUIET


def spawned(worker: Any, folder: Path, size: int) -> list[dict[str, Any]]:
    """What each process saved."""
    together(worker, (str(folder), size), size)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def assert_agree(one: dict[str, Any], two: dict[str, Any], **tolerance: float) -> None:
    assert one["ranks"] == two["ranks"] and sum(one["ranks"]) == 2 * len(one["ranks"])
    torch.testing.assert_close(one["weights"], two["weights"], **tolerance)


def test_ddp_with_reentrant_checkpointing(tmp_path: Path) -> None:
    """PEFT 0.21.2: RuntimeError: Expected to mark a variable ready only once. [...] Parameter at index 16 with name
    base_model.model.bert.encoder.layer.1.output.dense.lora_B.default has been marked as ready twice. The penalty uses
    the factors a second time, outside the checkpointed part.
    """
    assert_agree(*spawned(workers.checkpointed_ddp, tmp_path, 2), atol=0.0, rtol=0.0)


@shards
def test_fsdp2(tmp_path: Path) -> None:
    """PEFT 0.21.2, in the first forward pass: RuntimeError: The size of tensor a (2) must match the size of tensor b
    (4) at non-singleton dimension 0, where the identity is taken off a shard's Gram matrix. With one process instead
    of two: AssertionError, without a message, where the penalty, a DTensor, is added to the loss.

    With tapertune the sharded run is the unsharded run, but for pruned ranks, which are masked and not removed.
    """
    results = spawned(workers.fsdp2, tmp_path, 2)
    plain = make(**workers.SMALL, **({} if SHOW_PEFT else {"plan": {"compact": "never"}}))
    optimizer = adamw(plain)
    total = workers.SMALL["total"]
    train(plain, optimizer, Follower(plain, optimizer, total), range(total))
    weights = {name: p.detach() for name, p in plain.named_parameters() if p.requires_grad}
    for result in results:
        assert_agree(result, {"ranks": ranks(plain), "weights": weights}, atol=1e-6, rtol=1e-4)
