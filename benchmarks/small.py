"""Measures inputs of few tokens and generated text, and prints the tables; minutes of one core.

    OMP_NUM_THREADS=1 python benchmarks/small.py passes [--dtype bfloat16]
    OMP_NUM_THREADS=1 python benchmarks/small.py text [--dtype bfloat16]

``passes``: forward and backward of LoRA in a BERT of 6 x 384 as PEFT computes it, in nodes of our own, and in torch's
operations (``tapertune.kernels.paths``). ``text``: tokens that LoRAN writes in a Llama of 8 x 576, its update made for
each or kept.
Ratios to the frozen model, medians of rounds in which all take turns; CPU time of one thread.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import tapertune
from tapertune.benchmark.base_models import make_base
from tapertune.benchmark.setting import Setting
from tapertune.benchmark.variants import build
from tapertune.kernels import paths

TOKENS = (4, 16, 64, 128, 256)
WRITTEN = 32
BOUNDS = ("_MOST", "_MOST_HALF")


def ratios(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median time of each run over the median of the first."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):  # the first two warm up
        for name in random.sample(list(runs), len(runs)):
            began = time.process_time()
            runs[name]()
            if number > 1:
                times[name].append(time.process_time() - began)
    floor = median(times[next(iter(runs))])
    return {name: median(each) / floor for name, each in times.items()}


def passes(dtype: str) -> None:
    usual = {name: getattr(paths, name) for name in BOUNDS}
    never = dict.fromkeys(BOUNDS, 0)
    # up to the lower bound, products over a base in half precision are float32's
    always = {**usual, "_MOST_HALF" if dtype == "bfloat16" else "_MOST": 1 << 30}
    print("| tokens | PEFT | node | torch's operations |\n| --- | --- | --- | --- |")
    for tokens in TOKENS:
        base = make_base("bert-6x384", Setting.model_validate({"batch": 1, "length": tokens, "dtype": dtype}))
        floor, theirs, ours = (build(name, base) for name in ("floor", "peft-lora", "ours-lora"))

        def run(candidate: Any, bounds: Mapping[str, int] = usual) -> Callable[[], None]:
            def once() -> None:
                for name, value in bounds.items():
                    setattr(paths, name, value)
                candidate.loss().backward()
                candidate.model.zero_grad()

            return once

        forms = {"floor": run(floor), "peft": run(theirs), "node": run(ours, never), "torch": run(ours, always)}
        found = ratios(forms, 25)
        print(f"| {tokens} | {found['peft']:.2f} | {found['node']:.2f} | {found['torch']:.2f} |", flush=True)


def text(dtype: str) -> None:
    sizes = {"hidden_size": 576, "intermediate_size": 1152, "num_hidden_layers": 8, "num_attention_heads": 18}
    torch.manual_seed(0)
    floor = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).to(getattr(torch, dtype)).eval()
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = tapertune.make_config("loran", target_modules=targets, init_weights=False)
    ours = get_peft_model(copy.deepcopy(floor), config).eval()
    ids = torch.randint(3, 64, (1, 8))

    def write(model: Any) -> None:
        model.generate(input_ids=ids, max_new_tokens=WRITTEN, min_new_tokens=WRITTEN, do_sample=False, pad_token_id=0)

    def keep() -> None:
        with tapertune.updates_kept(ours):
            write(ours)

    found = ratios({"floor": lambda: write(floor), "each": lambda: write(ours), "kept": keep}, 3)
    print(f"{WRITTEN} tokens, LoRAN's update made for each: {found['each']:.1f}; kept: {found['kept']:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("passes", "text"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args()
    torch.set_num_threads(1)
    (passes if given.what == "passes" else text)(given.dtype)
