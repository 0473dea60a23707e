"""The comparison's runs with SmolLM2-135M: LoRA and AFLoRA on arithmetic word problems, beside the untrained model.

Sixty problems, twenty from each of LLM-Adapters' three test sets, give the loss on their worked answers and the share
of final answers that are right, written greedily. Rates and methods are the recipes'; one seed.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from compare_runs import FAST, CpuClock, append, circumstances, costs, draw, rows_of, write_rows
from compare_table import Record, markdown, read_records, short

from tapertune.runfile.recipes import find_recipe
from tapertune.runfile.settings import RunSettings, load_settings
from tapertune.train.evaluation import evaluate
from tapertune.train.models import find_model
from tapertune.train.runner import run as train

TASK = "math_instruct"
TESTS = ("test_addsub", "test_multiarith", "test_singleeq")
ROWS, PROBLEMS, NEW_TOKENS, SEED = 240, 20, 128, 1
TRAINING = {**FAST, "num_train_epochs": 1, "per_device_train_batch_size": 8}
UNTRAINED = "untrained"
METHODS = (UNTRAINED, "lora", "aflora")


def samples(data: Path, folder: Path) -> tuple[Path, Path]:
    """Files of training rows and test problems."""
    problems = [problem for test in TESTS for problem in _first(rows_of(data / TASK / f"{test}.jsonl"))]
    (rows,) = draw(rows_of(data / TASK / "train.jsonl"), ["instruction"], problems, [ROWS])
    return write_rows(folder / "train.jsonl", rows), write_rows(folder / "problems.jsonl", problems)


def _first(problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    random.Random(0).shuffle(problems)
    return problems[:PROBLEMS]


def settings_of(method: str, files: tuple[Path, Path], folder: Path) -> RunSettings:
    overrides: dict[str, Any] = {
        **{f"training.{name}": value for name, value in TRAINING.items()},
        "task.train": str(files[0]),
        "task.validation": str(files[1]),
        "task.train_rows": None,
        "task.validation_rows": None,
        "task.generation.max_new_tokens": NEW_TOKENS,
        "seed": SEED,
        "output_dir": str(folder),
    }
    return load_settings(find_recipe(f"{method}/smollm2-arithmetic"), overrides)


def perform(method: str, files: tuple[Path, Path], folder: Path) -> Record:
    """Trains and scores, or only scores the model as it comes."""
    torch.set_num_threads(1)
    clock, begun = CpuClock(), time.process_time()
    settings = settings_of("lora" if method == UNTRAINED else method, files, folder)
    record: Record = {"method": method, "seed": SEED, "rows": ROWS, "problems": PROBLEMS * len(TESTS)}
    if method == UNTRAINED:
        block = settings.task
        given = {"max_length": block.max_length, "generation": block.fields["generation"], "validation": str(files[1])}
        _, found, _ = evaluate(Path(find_model("smollm2")), task=TASK, start=lambda _: lambda _: None, **given)
        (measured,) = found.values()
        metrics, interval = measured.metrics, list(measured.score.interval)
    else:
        made = train(settings, overwrite=True, display=clock)
        metrics, interval = made["metrics"], made["score"]["interval"]
        record |= {"rate": settings.training["learning_rate"], **costs(made)}
    shutil.rmtree(folder, ignore_errors=True)
    return {**record, "metrics": metrics, "interval": interval, **circumstances(settings, clock, begun)}


def run_arithmetic(data: Path, scratch: Path, records: Path) -> None:
    """Runs what is not recorded yet."""
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        files = samples(data, Path(folder))
        for method in METHODS:
            if method not in {record["method"] for record in read_records(records)}:
                record = perform(method, files, Path(folder) / "run")
                append(records, record)
                print(f"{method}: {record['metrics']}", flush=True)


def arithmetic_table(records: Sequence[Record]) -> str:
    """A row a method."""
    heads = ["", "rate", "loss", "right answers (95% interval)", "trained parameters", "TFLOP", "CPU s"]
    by_method = {record["method"]: record for record in records}
    return markdown(heads, [_row(method, by_method.get(method)) for method in METHODS])


def _row(method: str, record: Record | None) -> list[str]:
    if record is None:
        return [method, "", "", "not run", "", "", ""]
    metrics, (low, high) = record["metrics"], record["interval"]
    accuracy = f"{100 * metrics['answer_accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    shown = [method, "", f"{metrics['loss']:.3f}", accuracy]
    if "parameters" not in record:
        return [*shown, "0", "", ""]
    count = record["parameters"]
    counts = f"{count['start']:,}, {round(count['average']):,}, {count['end']:,}"
    same = count["start"] == count["end"]
    cost = [f"{record['flops'] / 1e12:.2f}", f"{record['train_cpu_seconds']:.0f}"]
    return [method, short(record["rate"]), *shown[2:], f"{count['start']:,}" if same else counts, *cost]
