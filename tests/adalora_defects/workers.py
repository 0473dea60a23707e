"""What each process of the distributed tests runs; a module, so that a spawned process can import it."""

from __future__ import annotations

import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from adalora_defects.side import SHOW_PEFT, Follower, adamw, make, ranks
from processes import leave, nodes_everywhere
from tiny import batch, checkpoint
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

# processes talk over each parameter
SMALL: dict[str, Any] = {"target_modules": ["query", "output.dense"], "total": 8, "tinit": 1, "tfinal": 2}


def _start(rank: int, folder: str, size: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    nodes_everywhere()
    distributed.init_process_group(
        "gloo", timeout=timedelta(seconds=60), init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size
    )


def checkpointed_ddp(rank: int, folder: str, size: int) -> None:
    _start(rank, folder, size)
    model = make(**SMALL)
    model.enable_input_require_grads()
    checkpoint(model, reentrant=True)
    wrapped = DistributedDataParallel(model.train())
    optimizer = adamw(model)
    follower = Follower(wrapped, optimizer, SMALL["total"])
    for t in range(SMALL["total"]):
        optimizer.zero_grad()
        wrapped(**batch(seed=2 * t + rank)).loss.backward()
        optimizer.step()
        follower.after(t)
    _save(folder, rank, ranks(model), {n: p.detach() for n, p in model.named_parameters() if p.requires_grad})


def fsdp2(rank: int, folder: str, size: int) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.debug import CommDebugMode

    _start(rank, folder, size)
    model = make(**SMALL)
    for layer in model.get_base_model().bert.encoder.layer:
        fully_shard(layer)
    fully_shard(model)
    optimizer = adamw(model)
    follower = Follower(model, optimizer, SMALL["total"])
    messages = []
    for t in range(SMALL["total"]):
        optimizer.zero_grad()
        model(**batch(seed=t)).loss.backward()
        with CommDebugMode() as seen:
            optimizer.step()
        messages.append(seen.get_total_counts())
        follower.after(t)
    # one for the penalty, one for the scores, one that says whether gradients are finite, one for a decision's gates
    assert SHOW_PEFT or (max(messages) == 4 and min(messages) == 3), messages
    full = {n: p.full_tensor().detach() for n, p in model.named_parameters() if p.requires_grad}
    kept = [int(v.count_nonzero()) for n, v in full.items() if "lora_E" in n]
    _save(folder, rank, kept, full)


def _save(folder: str, rank: int, kept: list[int], weights: dict[str, Any]) -> None:
    torch.save({"ranks": kept, "weights": weights}, Path(folder) / f"{rank}.pt")
    leave()
