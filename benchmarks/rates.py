"""Trains short runs over a grid of learning rates, from which the constants of the rates' rule are fitted.

    OMP_NUM_THREADS=1 python benchmarks/rates.py run --data DIR [--part fit|factors|check] [--scratch DIR] [--shard 0/2]
    python benchmarks/rates.py page

``DIR/<task>/train.jsonl`` are rows with GLUE's columns, ``DIR/newsgroups20`` has ``label_names.json`` beside it. A
record is written as its run ends, and what is recorded is not run again, so that it can be stopped at any time.
``fit``: each method's rates on two tasks. ``factors``: the same with factors at rates of their own. ``check``: the
rule's rate, on tasks that took no part in the fit.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "rates.md"
RECORDS = ROOT / "benchmarks" / "results" / "rates.jsonl"
FIT, CHECK = ("sst2", "topics"), ("recreation",)
GROUPS = {"topics": (("comp.", "rec.", "sci.", "talk."), 0), "recreation": (("rec.",), -1)}
TRAIN, SELECTION = 240, 160
LENGTH = 32
TRAINING = {
    "use_cpu": True, "eval_strategy": "no", "save_strategy": "no", "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
}  # fmt: skip
RATES: Mapping[str, Sequence[float]] = {
    "adalora": (3e-2, 1e-1),
    "aflora": (1e-2, 3e-2),
    "elora": (3e-2, 1e-1),
    "lora2": (1e-2, 3e-2),
    "sora": (1e-3, 3e-3),
    "lora": (1e-3, 3e-3),
    "loran": (1e-3,),  # within half a point of LoRA at every rate of results/minilm.jsonl
}
FACTORS: Mapping[str, Sequence[tuple[float, Mapping[str, float]]]] = {
    "aflora": [(3e-3, {"d": 10.0, "b": 10.0})],
    "adalora": [(1e-2, {"E": 10.0})],
    "sora": [(1e-3, {"g": 10.0})],
    "elora": [(3e-2, {"d": 0.1})],
    "lora": [(3e-4, {"B": 16.0})],
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run. ``rate`` None is the rule's."""

    part: str
    task: str
    method: str
    rate: float | None
    factors: Mapping[str, float] = field(default_factory=dict)
    seed: int = 1

    def key(self) -> str:
        return json.dumps([self.part, self.task, self.method, self.rate, dict(self.factors), self.seed])


def cells(part: str) -> Iterator[Cell]:
    if part == "fit":
        for method, rates in RATES.items():
            for task in FIT:
                for rate in rates:
                    yield Cell(part=part, task=task, method=method, rate=rate)
    elif part == "factors":
        for task in FIT:
            for method, settings in FACTORS.items():
                for rate, factors in settings:
                    yield Cell(part=part, task=task, method=method, rate=rate, factors=factors)
    else:
        for task in CHECK:
            for method in RATES:
                yield Cell(part=part, task=task, method=method, rate=None)


def rows_of(data: Path, task: str) -> list[dict[str, Any]]:
    """A task's rows: an official sample's own; of newsgroups, a group's kind (``topics``) or subject."""
    if task not in GROUPS:
        return read_lines(data / task / "train.jsonl")
    folder = data / "newsgroups20"
    names = json.loads((folder / "label_names.json").read_text(encoding="utf-8"))
    starts, part = GROUPS[task]
    found = [(row["text"], names[row["label"]]) for row in read_lines(folder / "train.jsonl")]
    return [
        {"text": text, "label": name.split(".")[part]}
        for text, name in found
        if name.startswith(starts) and text.strip()
    ]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write_samples(data: Path, task: str, folder: Path) -> float:
    """Writes training rows and selection rows, which share none; returns the larger class's share of the latter."""
    rows = rows_of(data, task)
    random.Random(0).shuffle(rows)
    parts = {"train": rows[:TRAIN], "selection": rows[TRAIN : TRAIN + SELECTION]}
    for name, part in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    return max(Counter(row["label"] for row in parts["selection"]).values()) / SELECTION


def settings_of(cell: Cell, folder: Path) -> dict[str, Any]:
    task: dict[str, Any] = {"name": cell.task, "max_length": LENGTH}
    if cell.task in GROUPS:
        task |= {"name": "text_classification", "text": "text", "label": "label"}
    method: dict[str, Any] = {"name": cell.method}
    if cell.factors:
        method["factor_rates"] = dict(cell.factors)
    training: dict[str, Any] = dict(TRAINING)
    if cell.rate is not None:
        training["learning_rate"] = cell.rate
    files = {"train": str(folder / "train.jsonl"), "validation": str(folder / "selection.jsonl")}
    return {
        "model": "minilm", "task": {**task, **files}, "method": method, "training": training, "seed": cell.seed,
        "output_dir": str(folder / "run"),
    }  # fmt: skip


def perform(cell: Cell, folder: Path, larger: float) -> dict[str, Any]:
    """Trains one run and returns its record; a run that diverges has no score."""
    import torch

    from tapertune.runfile import environment
    from tapertune.runfile.settings import check_settings
    from tapertune.train.runner import run

    torch.set_num_threads(1)
    begun = time.process_time()
    settings = check_settings(settings_of(cell, folder))
    record: dict[str, Any] = {
        "part": cell.part, "task": cell.task, "method": cell.method, "rate": cell.rate, "factors": dict(cell.factors),
        "seed": cell.seed, "rows": TRAIN, "larger": larger, "score": None,
    }  # fmt: skip
    try:
        made = run(settings, overwrite=True)
        record |= {"metric": made["score"]["metric"], "score": made["score"]["value"], "steps": made["steps"]}
        record |= {"loss": made["metrics"].get("loss"), "rule": cell.rate is None}
        record["rate"] = made["learning_rate"]["rate"] if cell.rate is None else cell.rate
    except ArithmeticError as error:
        record["error"] = str(error)
    finally:
        shutil.rmtree(folder / "run", ignore_errors=True)
    plain = settings.resolved()
    record |= {"settings": {name: plain[name] for name in ("model", "method", "training", "head")}}
    record |= {"cpu_seconds": round(time.process_time() - begun, 1), "versions": environment.versions()}
    return record | {"cpu": environment.hardware().cpu}


def read_records() -> list[dict[str, Any]]:
    return read_lines(RECORDS)


def known(records: Sequence[Mapping[str, Any]]) -> set[str]:
    return {
        Cell(part=r["part"], task=r["task"], method=r["method"], rate=None if r.get("rule") else r["rate"],
             factors=r["factors"], seed=r["seed"]).key()
        for r in records
    }  # fmt: skip


def append(record: Mapping[str, Any]) -> None:
    """Adds a line in one write, so that processes that share a file do not mix theirs."""
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(record, allow_nan=False) + "\n").encode()
    descriptor = os.open(RECORDS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def run_all(data: Path, part: str, scratch: Path, shard: str) -> None:
    number, count = (int(text) for text in shard.split("/"))
    with tempfile.TemporaryDirectory(dir=scratch) as top:
        for cell in list(cells(part))[number::count]:
            if cell.key() in known(read_records()):
                continue
            folder = Path(top) / cell.task
            folder.mkdir(exist_ok=True)
            record = perform(cell, folder, write_samples(data, cell.task, folder))
            append(record)
            print(f"{cell.task} {cell.method} {record['rate']} {record['factors']}: {record['score']}", flush=True)
            gc.collect()  # a trainer and its model refer to each other


def page() -> None:
    """Writes the scores into the page, a row for each method, task and setting of the factors."""
    rows: dict[tuple[str, ...], dict[float, float]] = {}
    for record in read_records():
        factors = ", ".join(f"{name} x{ratio:g}" for name, ratio in record["factors"].items())
        task = f"{record['task']} ({100 * record['larger']:.0f})"
        place = (record["part"], task, record["method"], factors)
        rows.setdefault(place, {})[float(record["rate"])] = 100 * (record["score"] or 0.0)
    lines = ["| part | task (larger class) | method | factors | % right by rate |", "| --- | --- | --- | --- | --- |"]
    for place, scores in rows.items():
        found = ", ".join(f"{rate:.1e}: {score:.1f}" for rate, score in sorted(scores.items()))
        lines.append(f"| {' | '.join(place)} | {found} |")
    between = re.compile(r"(?<=<!-- measured:start -->\n).*?(?=<!-- measured:end -->)", re.DOTALL)
    text = between.sub(lambda _: "\n" + "\n".join(lines) + "\n\n", PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train what is not recorded yet")
    run.add_argument("--data", type=Path, required=True, help="folder with a folder for each task")
    run.add_argument("--part", choices=("fit", "factors", "check"), default="fit")
    run.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where runs lie")
    run.add_argument("--shard", default="0/1", help="this process's part, such as 0/2")
    commands.add_parser("page", help="write the scores into docs/rates.md")
    given = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
    if given.command == "page":
        page()
    else:
        run_all(given.data, given.part, given.scratch, given.shard)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
