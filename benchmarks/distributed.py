"""What processes send each other for an adapter, by method: reckoned from the chains' widths and held against what a
hook on DistributedDataParallel's reducer counts with 2 and 4 processes, before and after freezing and pruning; and the
same reckoning for a model of 7 billion parameters on 8 and 512 devices.

    python benchmarks/distributed.py            # the tables of docs/distributed.md; ends with 1 where a count differs
    python benchmarks/distributed.py --only 2   # with 2 processes alone
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import distributed, multiprocessing, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

import tapertune
from tapertune.methods import METHODS, Method

ITEM = 4  # bytes of a float
WIDTHS = {"0": (48, 64), "2": (64, 32)}  # of the adapted layers of the small model
HEAD = 32 * 4 + 4
STEPS = 24
FREEZE: dict[str, Any] = {"schedule": {"kind": "cubic", "warmup": 2, "cooldown": 4, "every": 2}}
BUDGET: dict[str, Any] = {"init_r": 8, "target_r": 3, "tinit": 2, "tfinal": 8, "deltaT": 2}
ROWS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "LoRA": ("lora", {"r": 8}, {}),
    "AFLoRA": ("aflora", {"r": 8}, FREEZE),
    "AdaLoRA": ("adalora", BUDGET, {}),
    "LoRA^2": ("lora2", BUDGET, {}),
    "SoRA": ("sora", {"r": 8, "threshold": 0.05}, {"compact": "on_event"}),
    "LoRAN": ("loran", {"r": 8}, {}),
    "ELoRA": ("elora", {"r": 8}, {}),
}
_LLAMA = [(4096, 4096)] * 4 + [(4096, 11008)] * 2 + [(11008, 4096)]  # adapted layers of each of 32 blocks
LARGE: dict[str, tuple[str, dict[str, Any], float]] = {  # method, settings, share of factors or ranks left in the end
    "LoRA": ("lora", {"r": 16}, 1.0),
    "AFLoRA": ("aflora", {"r": 16}, 0.0),
    "AdaLoRA": ("adalora", {"init_r": 24, "target_r": 16}, 16 / 24),
    "LoRA^2": ("lora2", {"init_r": 24, "target_r": 16}, 16 / 24),
    "SoRA": ("sora", {"r": 16}, 0.5),
    "ELoRA": ("elora", {"r": 256}, 1.0),
}


def elements(method: Method, settings: Any, width: tuple[int, int], names: Collection[str], rank: int) -> int:
    """Elements of some factors of one module, from the declared chain alone."""
    sizes = {k: v for k, v in dataclasses.asdict(settings).items() if isinstance(v, int)}
    sizes |= {"d_in": width[0], "d_out": width[1], method.rank: rank}
    return method.chain(settings).parameter_count(sizes, names)


def trained(method: Method, settings: Any, kind: str = "ffn") -> list[str]:
    return [name for name in method.chain(settings).names if method.trains(settings, name, kind)]


def reckoned(name: str, frozen: Collection[str], ranks: Mapping[str, int]) -> int:
    """Bytes of a step's gradients in the small model, given what has frozen and the ranks that are left."""
    key, values, _ = ROWS[name]
    method = METHODS[key]
    settings = method.settings(**values)
    total = HEAD
    for module, width in WIDTHS.items():
        names = [factor for factor in trained(method, settings) if f"{module}.{factor}" not in frozen]
        rank = ranks.get(module, getattr(settings, method.rank))
        total += elements(method, settings, width, names, rank)
    return total * ITEM


def counted(name: str) -> dict[str, Any]:
    """A short training in this process's group: bytes that its reducer sent in each step, and what was decided."""
    key, values, plan = ROWS[name]
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(48, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 4))
    config = tapertune.make_config(key, target_modules=list(WIDTHS), modules_to_save=["4"], **values)
    wrapper = DistributedDataParallel(get_peft_model(base, config).train())
    sent: list[int] = []

    def count(state, bucket):
        sent[-1] += bucket.buffer().numel() * bucket.buffer().element_size()
        return allreduce_hook(distributed.group.WORLD, bucket)

    wrapper.register_comm_hook(None, count)
    optimizer = torch.optim.AdamW([p for p in wrapper.parameters() if p.requires_grad], lr=1e-2)
    controller = tapertune.attach(wrapper, optimizer, total_steps=STEPS, plan=plan or None)
    generator = torch.Generator().manual_seed(distributed.get_rank())
    slow: list[float] = []
    for _ in range(STEPS):
        sent.append(0)
        optimizer.zero_grad()
        wrapper(torch.randn(4, 48, generator=generator)).square().mean().backward()
        reducer, begun = wrapper.reducer, time.perf_counter()
        optimizer.step()
        if wrapper.reducer is not reducer:
            slow.append(1000 * (time.perf_counter() - begun))
    return {"sent": sent, "frozen": list(controller.frozen), "ranks": controller.ranks, "milliseconds": slow}


def worker(rank: int, size: int, folder: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=size)
    found = {name: counted(name) for name in ROWS}
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def measure(size: int) -> dict[str, dict[str, Any]]:
    copies = sys.platform == "linux" and not torch.accelerator.is_available()  # an interpreter imports for seconds
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(worker, (size, folder), size, start_method="fork" if copies else "spawn")
        return torch.load(Path(folder) / "found.pt", weights_only=True)


def small(sizes: Collection[int]) -> bool:
    """Prints the small model's table; whether all counts are as reckoned."""
    right = True
    print("| method | processes | bytes a step, reckoned: before, after | counted: before, after | new reducers |")
    print("|---|---|---|---|---|")
    for size in sizes:
        for name, seen in measure(size).items():
            before, after = reckoned(name, (), {}), reckoned(name, seen["frozen"], seen["ranks"])
            first, last = seen["sent"][0], seen["sent"][-1]
            right = right and (before, after) == (first, last)
            news = len(seen["milliseconds"])
            print(f"| {name} | {size} | {before:,}, {after:,} | {first:,}, {last:,} | {news} |")
    return right


def large() -> None:
    """Prints what a model of 7 billion parameters would send, all its linear layers adapted."""
    print("| method | trains, millions | MB a step: start, end | each of 8 sends | each of 512 sends | scores, MB |")
    print("|---|---|---|---|---|---|")
    for name, (key, values, left) in LARGE.items():
        method = METHODS[key]
        settings = method.settings(**values)
        rank, names = getattr(settings, method.rank), trained(method, settings)
        chain = method.chain(settings)
        ends = [f for f in names if f not in chain.matrices] if left == 0 else names
        start = 32 * sum(elements(method, settings, width, names, rank) for width in _LLAMA)
        end = 32 * sum(elements(method, settings, w, ends, round(rank * left) if left else rank) for w in _LLAMA)
        scored = method.name in ("aflora", "adalora", "lora2")
        by_scores = [f for f in names if f in chain.matrices] if method.name == "aflora" else names
        if method.name == "lora2":
            by_scores = ["E", "aa", "B"]
        scores = 32 * sum(elements(method, settings, w, by_scores, rank) for w in _LLAMA) * 2 if scored else 0
        ring = [f"{2 * (n - 1) / n * start * ITEM / 1e6:,.0f} MB" for n in (8, 512)]
        sizes = f"{start * ITEM / 1e6:,.1f}, {end * ITEM / 1e6:,.1f}"
        print(f"| {name} | {start / 1e6:.1f} | {sizes} | {ring[0]} | {ring[1]} | {scores * ITEM / 1e6:,.0f} |")


def main(arguments: list[str]) -> int:
    sizes = [int(arguments[1])] if arguments[:1] == ["--only"] else [2, 4]
    right = small(sizes)
    print()
    large()
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
