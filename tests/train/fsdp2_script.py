"""What ``accelerate launch`` starts with the file for FSDP2, where there are processors only: Accelerate itself splits
weights on accelerators alone, so that what it has read from the file is handed to torch here."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from peft import get_peft_model
from torch import distributed
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import batch, tiny_bert

import tapertune

STEPS = 8


def main(out: str) -> None:
    warnings.simplefilter("ignore")
    plugin = FullyShardedDataParallelPlugin()  # from what the launcher has set
    assert os.environ["ACCELERATE_USE_FSDP"] == "true" and plugin.fsdp_version == 2
    distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    torch.manual_seed(1)
    settings = {"init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 2, "deltaT": 1}
    config = tapertune.make_config("adalora", target_modules=["query", "output.dense"], **settings)
    model = get_peft_model(tiny_bert(), config).train()
    for layer in model.get_base_model().bert.encoder.layer:
        fully_shard(layer, reshard_after_forward=plugin.reshard_after_forward)
    fully_shard(model, reshard_after_forward=plugin.reshard_after_forward)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    controller = tapertune.attach(model, optimizer, total_steps=STEPS)
    for t in range(STEPS):
        optimizer.zero_grad()
        model(**batch(seed=2 * t + distributed.get_rank())).loss.backward()
        optimizer.step()
    Path(f"{out}-{distributed.get_rank()}.json").write_text(json.dumps({"ranks": controller.ranks}))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
