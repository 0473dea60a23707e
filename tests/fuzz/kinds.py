"""All kinds by name, and how many cases of each make up a whole run: more of those that are quick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .adapters import Evaluate, Export, Import, Inspect, Merge
from .harness import Kind
from .runs import Checkpoints, Report, States, StoreFiles
from .texts import Data, Grids, RunFiles

KINDS: dict[str, tuple[Callable[[Path], Kind], int]] = {
    kind.name: (kind, cases)
    for kind, cases in (
        (Inspect, 36_000),
        (Import, 16_000),
        (Checkpoints, 12_000),
        (Data, 10_000),
        (RunFiles, 8_000),
        (Grids, 8_000),
        (States, 5_000),
        (Merge, 2_000),
        (Report, 1_500),
        (StoreFiles, 1_500),
        (Export, 1_000),
        (Evaluate, 500),
    )
}
"""What makes a kind's healthy files in a folder, and its cases."""

WHAT = {
    "inspect": "`inspect`: configs and weights of every method and of PEFT",
    "import": "`import`: adapters and checkpoints of every format",
    "checkpoints": "`--resume`: `run.json`, and every file of checkpoints",
    "data": "data: CSV, TSV, JSON, JSON lines, Parquet, packed or not, for six kinds of task",
    "run files": "run files (YAML) and settings of every method",
    "grids": "grids of `compare` (YAML)",
    "controller state": "a controller's state of every method, and the events beside it",
    "merge": "`merge`: base (index, shards, config) and adapter",
    "report": "`report`: `run.json`, `events.jsonl`",
    "store": "stores of `compare`: header, records, events, claims",
    "export": "`export`: configs and weights of every method",
    "evaluate": "`evaluate`: adapter, whole model, `task.json`, `run.json`",
}
