"""Fails when a step of a small model costs more than benchmarks/speed/smoke.json says; ``--record`` writes that file.

Counts (bytes saved for backward, matrix operations, kernels called, optimizer bytes) have to be the record's. The ratio
of step time to the frozen model's may exceed the record's by the record's spread and a margin; a variant that
exceeds it is measured again before it fails. Seconds are not judged; nor are ratios where another kernel computes than
did for the record (``native`` needs a C++ compiler).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tapertune.benchmark.regression_check import MARGIN, check, kernel_of, take_record
from tapertune.errors import TapertuneError
from tapertune.kernels import kernel_name

RECORD = Path(__file__).parent / "speed" / "smoke.json"


def announce(label: str, steps: int) -> Callable[[], None]:
    print(label, file=sys.stderr)
    return lambda: None


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--record"]):
        print(f"usage: {Path(__file__).name} [--record]", file=sys.stderr)
        return 2
    try:
        if arguments:
            session = take_record(RECORD, announce)
            print(f"written: {RECORD}, {len(session.measurements)} subjects")
            return 0
        with tempfile.TemporaryDirectory() as folder:
            verdicts = check(RECORD, Path(folder) / "speed.json", announce)
    except TapertuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"step time, floor = 1; the limit is the record's median and spread, and {MARGIN:.2f}")
    if kernel_of(RECORD) != kernel_name():
        print(f"only counts are judged: the record is of the kernel {kernel_of(RECORD)}, and this is {kernel_name()}")
    for verdict in verdicts:
        word = "ok  " if verdict.passed else "FAIL"
        print(f"{word} {verdict.variant:<22} {verdict.ratio:.2f}, limit {verdict.limit:.2f}")
        for difference in verdict.differing:
            print(f"     {difference}")
    return 0 if all(verdict.passed for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
