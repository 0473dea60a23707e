"""The comparison's runs with MiniLM: what is drawn from the data, with what settings a run trains, and its record.

Training rows and selection rows are drawn from the official training file and have no text in common; the official
validation file is the test.
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import compare_peft
import torch
from compare_table import Record, Run, read_records, runs_left

from tapertune.errors import TapertuneError
from tapertune.files import write_text
from tapertune.runfile import environment
from tapertune.runfile.recipes import find_recipe
from tapertune.runfile.settings import RunSettings, load_settings
from tapertune.tasks import get_task
from tapertune.tasks.files import Row, open_table
from tapertune.train.evaluation import evaluate
from tapertune.train.progress import Display
from tapertune.train.runner import run as train


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Rows drawn from the training file, and the tokens at which they are cut."""

    train: int
    selection: int
    max_length: int


TASKS = {
    "sst2": Sizes(train=1600, selection=300, max_length=64),
    "stsb": Sizes(train=1000, selection=300, max_length=128),
    "mrpc": Sizes(train=1000, selection=300, max_length=128),
    "rte": Sizes(train=300, selection=300, max_length=128),
}
GRIDS: dict[str, Sequence[float]] = {
    "head": (1e-2, 3e-2, 1e-1),
    "full": (3e-5, 1e-4, 3e-4),
    compare_peft.NAME: (3e-4, 1e-3, 3e-3),
    "lora": (3e-4, 1e-3, 3e-3),
    "aflora": (1e-3, 2e-3, 5e-3),
    "adalora": (1e-2, 3e-2, 1e-1),
    "lora2": (3e-3, 1e-2, 3e-2),
    "sora": (3e-4, 1e-3, 3e-3),
    "elora": (1e-2, 3e-2, 1e-1),
    "loran": (3e-4, 1e-3, 3e-3),
}
FAST = {"bf16": True, "use_cpu": True, "eval_strategy": "no", "save_strategy": "no"}
TRAINING = {**FAST, "num_train_epochs": 3, "per_device_train_batch_size": 16}


class CpuClock(Display):
    """Adds up the processor time of training steps, which a process does not spend while it waits for others."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._begun = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begun = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds += time.process_time() - self._begun


def draw(rows: Iterable[Row], columns: Sequence[str], known: Iterable[Row], sizes: Sequence[int]) -> list[list[Row]]:
    """Parts of the rows, of the sizes wanted, the same whenever they are drawn from the same rows. A text is drawn once
    at most, and not at all if a known row has it.

    Raises:
        TapertuneError: there are too few rows.
    """
    shuffled = list(rows)
    random.Random(0).shuffle(shuffled)
    seen = {tuple(row[name] for name in columns) for row in known}
    kept: list[Row] = []
    for row in shuffled:
        if (text := tuple(row[name] for name in columns)) not in seen:
            seen.add(text)
            kept.append(row)
    if len(kept) < sum(sizes):
        raise TapertuneError(f"{len(kept)} training rows can be drawn; {sum(sizes)} are needed")
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [kept[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def rows_of(file: Path) -> list[Row]:
    return [row for _, row in open_table(file).rows()]


def write_rows(file: Path, rows: Iterable[Row]) -> Path:
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
    return file


def samples(data: Path, task: str, folder: Path) -> tuple[Path, Path]:
    """Files of a task's training rows and selection rows."""
    sizes = TASKS[task]
    rows, known = rows_of(data / task / "train.jsonl"), rows_of(data / task / "validation.jsonl")
    parts = draw(rows, get_task(task).text, known, [sizes.train, sizes.selection])
    return write_rows(folder / f"{task}-train.jsonl", parts[0]), write_rows(
        folder / f"{task}-selection.jsonl", parts[1]
    )


def settings_of(run: Run, files: tuple[Path, Path], folder: Path) -> RunSettings:
    """A run's settings: its method's recipe with the sizes, the precision, the rate and the seed of this comparison."""
    task = {"train": str(files[0]), "validation": str(files[1]), "max_length": TASKS[run.task].max_length}
    overrides: dict[str, Any] = {
        **{f"task.{name}": value for name, value in task.items()},
        **{f"training.{name}": value for name, value in TRAINING.items()},
        "training.learning_rate": run.rate,
        "seed": run.seed,
        "output_dir": str(folder),
    }
    if run.method == "head":  # full fine-tuning with the body frozen
        overrides["method"] = "head"
    recipe = {"head": "full", compare_peft.NAME: "lora"}.get(run.method, run.method)
    return load_settings(find_recipe(f"{recipe}/minilm-{run.task}"), overrides)


def perform(run: Run, files: tuple[Path, Path], official: Path, folder: Path) -> Record:
    """Trains, scores what was trained on the official validation file, and returns the record. A run that diverges has
    no scores."""
    torch.set_num_threads(1)
    clock, begun = CpuClock(), time.process_time()
    settings = settings_of(run, files, folder)
    record: Record = {**asdict(run), "sizes": asdict(TASKS[run.task]), "selection": None, "test": None}
    try:
        record |= (compare_peft.scores if run.method == compare_peft.NAME else scores)(settings, official, clock)
    except ArithmeticError as error:
        record["error"] = str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {**record, **circumstances(settings, clock, begun)}


def scores(settings: RunSettings, official: Path, clock: CpuClock) -> Record:
    """Trains, and scores the saved run on the official validation file."""
    made = train(settings, overwrite=True, display=clock)
    _, found, _ = evaluate(Path(settings.output_dir), start=lambda _: lambda _: None, validation=str(official))
    (test,) = found.values()
    return {"metric": test.score.metric, "selection": made["score"]["value"], "test": test.score.value,
            "metrics": test.metrics, **costs(made)}  # fmt: skip


def costs(made: dict[str, Any]) -> Record:
    """What a record takes from ``run.json``."""
    return {"parameters": made["parameters"], "flops": made["flops"]["total"], "steps": made["steps"]}


def circumstances(settings: RunSettings, clock: CpuClock, begun: float) -> Record:
    """Settings, times, versions and commit of a run that began at that processor time."""
    plain = settings.resolved()
    return {
        "settings": {name: plain[name] for name in ("model", "method", "plan", "training", "head")},
        "train_cpu_seconds": round(clock.seconds, 2),
        "cpu_seconds": round(time.process_time() - begun, 2),
        "versions": environment.versions(),
        "cpu": environment.hardware().cpu,
        "commit": environment.git_state().commit,
    }


def append(path: Path, record: Record) -> None:
    """Adds a line in one write, so that processes that share a file do not mix theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(record, allow_nan=False) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        assert os.write(descriptor, line) == len(line), "a line of a regular file is written whole"
    finally:
        os.close(descriptor)


def of_these_sizes(records: Iterable[Record]) -> list[Record]:
    """The records that these sizes made; others stay in the file and are not mixed with them."""
    return [r for r in records if r["sizes"] == asdict(TASKS[r["task"]])]


def run_all(data: Path, tasks: Sequence[str], shard: tuple[int, int], scratch: Path, records: Path) -> None:
    """Runs what is not recorded yet of every cell that is this process's; what is left of a cell follows from what has
    been run."""
    number, count = shard
    scratch.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        official = data / task / "validation.jsonl"
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            files = samples(data, task, Path(folder))
            for method in list(GRIDS)[number::count]:
                while runs := runs_left(of_these_sizes(read_records(records)), task, method, GRIDS[method]):
                    record = perform(runs[0], files, official, Path(folder) / "run")
                    append(records, record)
                    print(f"{runs[0]}: selection {record['selection']}, test {record['test']}", flush=True)
                    gc.collect()  # a trainer and its model refer to each other
