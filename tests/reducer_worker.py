"""What each of two processes runs to see what its reducer sends; a module, so that a process can import it.

Each case trains for a few steps, in one process on the whole batch or in two on a half each.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from processes import leave, nodes_everywhere
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

import tapertune
from tapertune.integrations import restore, save_state
from tapertune.methods import METHODS

ITEM = 8  # bytes of a double
STEPS = 14


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run.

    Attributes:
        method: its name.
        settings, plan: of the method.
        options: of the wrapper.
        total: optimizer steps.
        passes: of each process before a step; all but the last without a reduction.
        attach_to: ``wrapper`` or what is ``inside`` it.
        eps: of AdamW, which makes steps out of gradients that are rounding alone where it is small against them.
        resume: at this step, go on in new objects that are wrapped before their state is loaded.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    total: int = STEPS
    passes: int = 1
    attach_to: str = "wrapper"
    eps: float = 1e-8
    resume: int | None = None


ROUNDING = 1e-2  # an eps beside which it counts for nothing: see test_rounding_is_magnified_in_one_process_too
FREEZES = {"schedule": {"kind": "cubic", "warmup": 2, "cooldown": 3, "every": 1}}
AT_ONCE = {"compact": "on_event"}
BUDGET = {"init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 3, "deltaT": 2}
SORA = {"r": 4, "threshold": 0.05}

CASES: dict[str, Case] = {
    **{f"default-{name}": Case(method=name) for name in METHODS},
    "default-loran": Case(method="loran", eps=ROUNDING),
    "freezes": Case(method="aflora", plan=FREEZES),
    "prunes": Case(method="adalora", settings=BUDGET),
    "prunes at once": Case(method="adalora", settings=BUDGET, plan=AT_ONCE),
    "prunes two planes": Case(method="lora2", settings=BUDGET),
    "closes gates": Case(method="sora", settings=SORA, plan=AT_ONCE),
    "static": Case(method="aflora", plan=FREEZES, options={"static_graph": True}),
    "static, pruned": Case(method="adalora", settings=BUDGET, options={"static_graph": True}),
    "views": Case(method="adalora", settings=BUDGET, plan=AT_ONCE, options={"gradient_as_bucket_view": True}),
    "unused": Case(method="aflora", plan=FREEZES, options={"find_unused_parameters": True}),
    "accumulates": Case(method="lora2", settings=BUDGET, passes=2),
    "inside": Case(method="adalora", settings=BUDGET, attach_to="inside"),
    "resumes frozen": Case(method="aflora", plan=FREEZES, resume=9),
    "resumes pruned": Case(method="adalora", settings=BUDGET, plan=AT_ONCE, resume=8),
    "resumes inside": Case(method="adalora", settings=BUDGET, plan=AT_ONCE, attach_to="inside", resume=8),
}


def build(case: Case) -> nn.Module:
    torch.manual_seed(1)
    base = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 4))
    config = tapertune.make_config(case.method, target_modules=["0", "2"], modules_to_save=["4"], **case.settings)
    return get_peft_model(base, config).double().train()


def rows(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    return x, torch.randn(8, 4, generator=generator, dtype=torch.float64)


@dataclass
class Run:
    """What is trained, and what was seen of it: bytes sent, and bytes of what trains, by step."""

    case: Case
    rank: int | None
    sent: list[int] = field(default_factory=list)
    trains: list[int] = field(default_factory=list)

    def start(self, controller_state: str | None = None, weights: Any = None, optimizer_state: Any = None) -> None:
        case = self.case
        self.model = build(case)
        wrapped = self.model if self.rank is None else DistributedDataParallel(self.model, **case.options)
        self.wrapped = wrapped
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if isinstance(wrapped, DistributedDataParallel):
            wrapped.register_comm_hook(None, self._count)
        if weights is not None:
            self.model.load_state_dict(weights)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=1e-2, eps=case.eps)
        place = wrapped if case.attach_to == "wrapper" else self.model
        self.controller = tapertune.attach(place, self.optimizer, total_steps=case.total, plan=case.plan or None)
        if controller_state is not None:
            restore(self.controller, controller_state)
            self.optimizer.load_state_dict(optimizer_state)

    def _count(self, state, bucket):  # torch compares annotations with types, not with their names
        self.sent[-1] += bucket.buffer().numel() * ITEM
        return allreduce_hook(distributed.group.WORLD, bucket)

    def step(self, t: int) -> None:
        self.sent.append(0)
        self.trains.append(sum(p.numel() for p in self.parameters.values() if p.requires_grad) * ITEM)
        self.optimizer.zero_grad()
        for i in range(self.case.passes):
            with self._reduces(i == self.case.passes - 1):
                x, y = (part[self._own(i)] for part in rows(t))
                ((self.wrapped(x) - y).square().mean() / self.case.passes).backward()
        self.optimizer.step()

    def _own(self, i: int) -> slice:
        """The rows of one pass. All passes of all processes take each row once."""
        size = 8 // self.case.passes // (1 if self.rank is None else 2)
        place = i if self.rank is None else 2 * i + self.rank
        return slice(place * size, (place + 1) * size)

    @contextlib.contextmanager
    def _reduces(self, reduces: bool) -> Iterator[None]:
        if reduces or not isinstance(self.wrapped, DistributedDataParallel):
            yield
            return
        with self.wrapped.no_sync():
            yield

    def train(self, folder: Path) -> dict[str, Any]:
        self.start()
        for t in range(self.case.total):
            if t == self.case.resume:
                place = folder / f"state-{self.rank}"
                place.mkdir()
                save_state(self.controller, place)
                weights = {name: value.clone() for name, value in self.model.state_dict().items()}
                self.start(str(place), weights, self.optimizer.state_dict())
            self.step(t)
        self.controller.finish()
        last = sum(p.numel() for p in self.parameters.values() if p.requires_grad) * ITEM
        return {
            "weights": {name: p.detach().clone() for name, p in self.parameters.items()},
            "frozen": dict(self.controller.frozen),
            "ranks": self.controller.ranks,
            "sent": self.sent,
            "trains": [*self.trains, last],
        }


def train(name: str, rank: int | None, folder: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Run(CASES[name], rank).train(folder)


def worker(rank: int, folder: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", timeout=timedelta(seconds=120), init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    nodes_everywhere()
    for name in names:
        place = Path(folder) / name.replace(" ", "-")
        place.mkdir(exist_ok=True)
        torch.save(train(name, rank, place), place / f"{rank}.pt")
    leave()
