"""Time of a step and bytes saved for backward of adapted experts, beside PEFT's LoRA: one layer's experts, interleaved.

    python benchmarks/experts.py --out benchmarks/results/experts.json

Both adapt ``gate_up_proj`` and ``down_proj`` at one rank over the same weights and the same tokens. Rounds take turns,
so that what else the machine does falls on all alike; the medians are compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

import tapertune

PARAMETERS = ["experts.gate_up_proj", "experts.down_proj"]


class Block(nn.Module):
    """Experts, and the tokens' ways through them."""

    def __init__(self, experts: int, width: int, inner: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = MixtralConfig(hidden_size=width, intermediate_size=inner, num_local_experts=experts)
        config._experts_implementation = "grouped_mm"
        self.experts = MixtralExperts(config)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    def forward(self, x: torch.Tensor, which: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        return self.experts(x, which, shares)


def candidates(args: argparse.Namespace, experts: int) -> dict[str, nn.Module]:
    """The experts alone, PEFT's LoRA, and methods of tapertune's."""
    models: dict[str, nn.Module] = {"frozen": Block(experts, args.width, args.inner).requires_grad_(False)}
    options: dict[str, Any] = {"r": args.rank, "target_modules": [], "target_parameters": PARAMETERS}
    models["peft lora"] = get_peft_model(Block(experts, args.width, args.inner), LoraConfig(**options))
    for name in args.methods.split(","):
        config = tapertune.make_config(name, **options)
        models[name] = get_peft_model(Block(experts, args.width, args.inner), config)
    return {name: model.train() for name, model in models.items()}


def step(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Forward and backward, down to the input."""
    model.zero_grad()
    model(*inputs).sum().mul(1.0).backward()


def saved_bytes(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """Bytes of the tensors that a forward pass keeps for backward, the model's own weights left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(*inputs)
    del out
    return sum(kept.values())


def measured(args: argparse.Namespace, experts: int) -> dict[str, Any]:
    """Medians of the rounds by candidate."""
    models = candidates(args, experts)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(args.tokens, args.width, generator=generator).requires_grad_()
    which = torch.stack([torch.randperm(experts, generator=generator)[:2] for _ in range(args.tokens)])
    inputs = (x, which, torch.full((args.tokens, 2), 0.5))
    times: dict[str, list[float]] = {name: [] for name in models}
    run: Callable[[nn.Module], None] = lambda model: step(model, inputs)  # noqa: E731
    for model in models.values():
        run(model)
    for _ in range(args.rounds):
        for name, model in models.items():
            begin = time.perf_counter()
            run(model)
            times[name].append(time.perf_counter() - begin)
    return {
        name: {
            "seconds": statistics.median(times[name]),
            "fastest": min(times[name]),
            "saved_bytes": saved_bytes(model, inputs),
        }
        for name, model in models.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--experts", default="8,64")
    parser.add_argument("--methods", default="lora,aflora,adalora,sora")
    for name, value in (("width", 256), ("inner", 512), ("tokens", 1024), ("rank", 8), ("rounds", 15)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*whose plan nobody runs")
    torch.set_num_threads(1)
    results = {str(count): measured(args, count) for count in map(int, args.experts.split(","))}
    about = {"torch": torch.__version__, "machine": platform.machine(), "threads": 1}
    sizes = {name: getattr(args, name) for name in ("width", "inner", "tokens", "rank", "rounds")}
    args.out.write_text(json.dumps({"sizes": sizes, "about": about, "experts": results}, indent=1) + "\n")
    for count, rows in results.items():
        for name, row in rows.items():
            print(f"{count:>4} {name:10} {row['seconds'] * 1e3:8.1f} ms {row['saved_bytes'] / 2**20:8.1f} MiB")


if __name__ == "__main__":
    main()
