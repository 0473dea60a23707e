"""What each process of the distributed test runs; a module of its own, so that a spawned process can import it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from merging import asked
from peft import get_peft_model
from processes import leave, nodes_everywhere
from tiny import batch, tiny_bert
from torch import distributed

import tapertune


def worker(rank: int, folder: str, plan: dict[str, Any] | None = None, merges: bool = False) -> None:
    distributed.init_process_group(
        "gloo", timeout=timedelta(seconds=60), init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    nodes_everywhere()
    torch.manual_seed(1)
    config = tapertune.make_config("aflora", r=2, projection_scope="all")
    model = torch.nn.parallel.DistributedDataParallel(get_peft_model(tiny_bert(), config))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    plan = {"schedule": {"warmup": 2, "cooldown": 3, "every": 1}, **(plan or {})}
    controller = tapertune.attach(model, optimizer, total_steps=10, plan=plan)
    moved = {}
    for t in range(10):
        optimizer.zero_grad()
        model(**batch(seed=2 * t + rank)).loss.backward()
        optimizer.step()
        for name in controller.frozen:
            value = controller.handles[name].parameter.detach().clone()
            moved.setdefault(name, value)
            assert torch.equal(moved[name], value), f"{name} moved after it was frozen"
            assert controller.handles[name].parameter not in optimizer.state
    assert len(controller.frozen) == 24 and any(asked(m) for m in model.modules()) == merges
    weights = {name: p.detach() for name, p in model.named_parameters()}
    torch.save({"frozen": controller.frozen, "weights": weights}, f"{folder}/{rank}.pt")
    leave()
