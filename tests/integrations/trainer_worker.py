"""What each of two processes runs to see what its reducer sends under Trainer; a module, so that a process can import
it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from processes import nodes_everywhere
from tiny import Rows, tiny_bert
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from transformers import Trainer, TrainerCallback, TrainingArguments

import tapertune

STEPS = 8
PLANS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "aflora": (
        {"r": 2, "projection_scope": "all"},
        {"schedule": {"kind": "cubic", "warmup": 1, "cooldown": 3, "every": 1}},
    ),
    "lora2": ({"init_r": 4, "target_r": 1, "tinit": 1, "tfinal": 4, "deltaT": 1}, {}),
}


class Bytes(TrainerCallback):
    """Counts what each step sends."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.sent: list[int] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.model_wrapped.register_comm_hook(None, self._count)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.sent.append(0)

    def _count(self, state, bucket):
        self.sent[-1] += bucket.buffer().numel() * bucket.buffer().element_size()
        return allreduce_hook(distributed.group.WORLD, bucket)


def train(method: str, folder: Path, processes: int) -> dict[str, Any]:
    settings, plan = PLANS[method]
    torch.manual_seed(1)
    config = tapertune.make_config(method, target_modules=["query", "value"], **settings)
    model = get_peft_model(tiny_bert().double(), config).double()
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=8 // processes, learning_rate=1e-2,
        report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no", logging_steps=4, max_grad_norm=0.0,
        average_tokens_across_devices=False,  # else Trainer adds the losses of processes up
    )  # fmt: skip
    callback, counter = tapertune.TapertuneCallback(plan=plan or None), Bytes()
    callbacks = [callback, counter] if processes > 1 else [callback]
    counter.trainer = trainer = Trainer(model, arguments, train_dataset=Rows(), callbacks=callbacks)
    trainer.train()
    controller = callback.controller
    assert controller is not None
    return {
        "weights": {name: p.detach() for name, p in model.named_parameters() if "tapertune" in name},
        "frozen": controller.frozen,
        "ranks": controller.ranks,
        "sent": counter.sent,
        "left": sum(p.numel() for p in model.parameters() if p.requires_grad) * 8,
    }


def worker(rank: int, folder: str, port: int) -> None:
    from accelerate.state import AcceleratorState, PartialState

    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="localhost")
    torch.set_num_threads(1)
    nodes_everywhere()
    AcceleratorState._reset_state(reset_partial_state=True)  # of the process that this one is a copy of
    PartialState._reset_state()
    for method in PLANS:
        torch.save(train(method, Path(folder) / method, 2), Path(folder) / f"{method}-{rank}.pt")
