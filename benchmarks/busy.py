"""The demo's time beside busy programs, with threads that wait by spinning and as the command has them wait.

    python benchmarks/busy.py [--steps 60] [--busy 2]

Each way trains the demo's two runs in turn, beside so many endless loops. Prints seconds and processor seconds.
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
    "all threads, OpenMP's default wait": {"OMP_NUM_THREADS": ALL, "GOMP_SPINCOUNT": "300000"},
    "all threads, short wait": {"OMP_NUM_THREADS": ALL},
    "as the command chooses": {},
}
SETS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def demo(steps: int, way: dict[str, str]) -> tuple[float, float]:
    """Seconds and processor seconds of a demo."""
    environment = {name: value for name, value in os.environ.items() if name not in SETS} | way
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tapertune", "demo", "--steps", str(steps), "--output-dir", folder]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--busy", type=int, default=2)
    options = parser.parse_args()
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.busy)]
    try:
        for name, way in WAYS.items():
            seconds, spent = demo(options.steps, way)
            print(f"{name}: {seconds:.0f} s, {spent:.0f} processor seconds", flush=True)
    finally:
        for loop in loops:
            loop.kill()


if __name__ == "__main__":
    main()
