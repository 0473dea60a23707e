"""Fuzzes files of every kind, prints what came of the cases, and writes the counts into docs/reliability.md.

    python tests/fuzz/run.py                     # all kinds, 101,500 cases
    python tests/fuzz/run.py --kind report --cases 50 --seed 3
    python tests/fuzz/run.py --kind report --only 77 --seed 3    # one case again, with its traceback

A record of the counts is kept by kind, so that kinds may be run one by one; ``--docs`` writes the table from it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.harness import Fault, attempt, timed
from fuzz.kinds import KINDS, WHAT

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
RECORD = Path(__file__).parent / "counts.json"
BEGIN, END = "<!-- fuzz: begin -->", "<!-- fuzz: end -->"
OUTCOMES = ("refused", "said", "same", "taken", "fault")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", action="append", choices=KINDS, help="of files; may be given again. Default: all")
    parser.add_argument("--cases", type=int, help="of each kind, instead of a whole run's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="run the case of this number alone")
    parser.add_argument("--record", type=Path, default=None, help="add the counts to this JSON file")
    parser.add_argument("--docs", action="store_true", help="write the table of the record into docs/reliability.md")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    chosen = options.kind or ([] if options.docs and options.cases is None else list(KINDS))
    faults: list[str] = []
    for name in chosen:
        make, cases = KINDS[name]
        with tempfile.TemporaryDirectory() as folder:
            kind = make(Path(folder))
            if options.only is not None:
                kind.healthy()
                print(attempt(kind, options.seed, options.only))
                continue
            numbers = range(options.cases or cases)
            counts = timed(kind, options.seed, numbers, partial(_note, faults))
        if options.record:
            _add(options.record, name, {"cases": len(numbers), "seed": options.seed, **counts})
    if options.docs:
        _write_table(json.loads((options.record or RECORD).read_text(encoding="utf-8")))
    return 1 if faults else 0


def _note(faults: list[str], fault: Fault) -> None:
    faults.append(str(fault))
    print(f"FAULT {fault}", file=sys.stderr, flush=True)


def _add(path: Path, name: str, counts: dict[str, Any]) -> None:
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**known, name: counts}, indent=1) + "\n", encoding="utf-8")


def table(record: dict[str, Any]) -> str:
    """The counts as Markdown."""
    lines = ["| files | cases | one line | said, the rest used | as if whole | another value, taken | faults |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    total = dict.fromkeys(("cases", *OUTCOMES), 0)
    for name in (name for name in WHAT if name in record):
        counts = {key: record[name].get(key, 0) for key in total}
        total = {key: total[key] + counts[key] for key in total}
        lines.append(_row(WHAT[name], counts))
    return "\n".join([*lines, _row("**all**", total)])


def _row(title: str, counts: dict[str, int]) -> str:
    return f"| {title} | " + " | ".join(f"{counts[key]:,}" for key in ("cases", *OUTCOMES)) + " |"


def _write_table(record: dict[str, Any]) -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(record)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
