"""A step's and the demo's time beside busy programs, with threads that wait as OpenMP has them wait, and for a moment.

    python benchmarks/busy.py [--busy 2] [--passes 3]
    python benchmarks/busy.py [--busy 2] --demo 60 [--only "1 thread"]

By default forward and backward passes of a model of MiniLM's size are timed, 16 rows of 64 tokens; with --demo the two
runs of ``tapertune demo``, so many steps each. Each way runs in turn, beside so many endless loops.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time

ALL = str(os.cpu_count() or 1)
WAYS = {
    f"{ALL} threads, OpenMP's default wait": {"OMP_NUM_THREADS": ALL, "GOMP_SPINCOUNT": "300000"},
    f"{ALL} threads, short wait": {"OMP_NUM_THREADS": ALL, "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"},
    "1 thread": {"OMP_NUM_THREADS": "1"},
}
CHOOSES = {"as the command chooses": {}}
SETS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
PASSES = """
import sys, time, torch
from transformers import BertConfig, BertForSequenceClassification
config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
model, ids = BertForSequenceClassification(config), torch.randint(0, 1000, (16, 64))
for turn in range(1 + int(sys.argv[1])):
    if turn == 1:
        began, spent = time.perf_counter(), time.process_time()
    model(input_ids=ids, labels=torch.zeros(16, dtype=torch.long)).loss.backward()
    model.zero_grad()
print(time.perf_counter() - began, time.process_time() - spent)
"""


def passes(count: int, way: dict[str, str]) -> str:
    command = [sys.executable, "-W", "ignore", "-c", PASSES, str(count)]
    done = subprocess.run(command, env=_environment(way), check=True, capture_output=True, text=True)
    seconds, spent = (float(number) / count for number in done.stdout.split())
    return f"{seconds:.2f} s a pass, {spent:.2f} of the processors"


def demo(steps: int, way: dict[str, str]) -> str:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tapertune", "demo", "--steps", str(steps), "--output-dir", folder]
        subprocess.run(command, env=_environment(way), check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{time.perf_counter() - began:.0f} s, {spent:.0f} of the processors"


def _environment(way: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in SETS} | way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--demo", type=int, metavar="STEPS")
    parser.add_argument("--only", default="", help="a part of the names of the ways to run")
    options = parser.parse_args()
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.busy)]
    try:
        ways = WAYS if options.demo is None else WAYS | CHOOSES
        for name, way in ((name, way) for name, way in ways.items() if options.only in name):
            timed = passes(options.passes, way) if options.demo is None else demo(options.demo, way)
            print(f"{name}: {timed}", flush=True)
    finally:
        for loop in loops:
            loop.kill()


if __name__ == "__main__":
    main()
