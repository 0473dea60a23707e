"""Kinds that are one file: run files, grids, and data in every format for every kind of task."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapertune.adapt.plan import merge
from tapertune.compare.grid import Grid, check_grid, load_grid
from tapertune.methods import METHODS
from tapertune.runfile.settings import check_settings, load_settings
from tapertune.tasks import data
from tapertune.tasks.declare import declare

from .harness import Damage, Outcome
from .mutate import Change, as_text, change_bytes, change_json, is_deep

_BOMB = (
    "&a [1,1,1,1,1,1,1,1,1]\nb: &b ["
    + "*a," * 9
    + "]\n"
    + "".join(
        f"{later}: &{later} [{f'*{earlier},' * 9}]\n" for earlier, later in zip("bcdefgh", "cdefghi", strict=True)
    )
)
_SNIPPETS = (
    "&x ", "*x", "&x [*x]", "!!set {a}", "!!binary aGk=", "!!python/name:os.system ", "? ", "---\n", "<<: ", "\t",
    "|\n",
    ">-\n", "2001-01-01", "2001-99-99", "12:30:45", "59:" * 9000 + "59", "9" * 5000, "1e400", ".nan", "-.inf", "0x_",
    "0b2", "0o17", "017", "1_000", "~", "[" * 3000, "{a: " * 300, "%YAML 9.9\n", "\u2028", "\0", "\ud800", "'",
    '"', _BOMB,
)  # fmt: skip


class _TextKind:
    """One file, written to one path."""

    name = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._healthy: dict[Any, Any] = {}

    def left(self) -> list[str]:
        return []

    def restore(self) -> None:
        self.path.unlink(missing_ok=True)


class RunFiles(_TextKind):
    """Run files of every method, with every block."""

    name = "run files"

    def __init__(self, root: Path) -> None:
        super().__init__(root / "run.yaml")
        self.raws = [_run_file(name) for name in METHODS]
        self.number = 0
        self.value: dict[str, Any] | None = None
        self.load: Callable[[Path], Any] = lambda path: load_settings(path).resolved()
        self.check: Callable[[dict[str, Any]], Any] = lambda raw: check_settings(raw).resolved()

    def damage(self, rng: random.Random) -> Damage:
        self.number, self.value = rng.randrange(len(self.raws)), None
        raw = self.raws[self.number]
        if rng.random() < 0.6:
            changed, change = change_json(raw, rng)
            text = as_text(changed, rng)
            if rng.random() < 0.7 and len(text) < 20_000 and not is_deep(changed):  # as a record's settings, no YAML
                self.value = changed
            else:
                self._write(_yaml(text))
            return Damage(str(change), change.is_wrong and not self.takes(change))
        text = _yaml(json.dumps(raw, indent=1))
        if rng.random() < 0.5:
            at, snippet = rng.randrange(len(text)), rng.choice(_SNIPPETS)
            self._write(text[:at] + snippet + text[at:])
            return Damage(f"{snippet[:40]!r} put in at {at}")
        content, what = change_bytes(text.encode(), rng)
        self.path.write_bytes(content)
        return Damage(what)

    def takes(self, change: Change) -> bool:
        """Whether the field has values of several types."""
        path = ".".join(map(str, change.path))
        if path in ("method", "task", "plan", "training.learning_rate", "plan.schedule.warmup", "max_skipped_steps"):
            return True
        return path.startswith(
            ("training.warmup_steps", "training.lr_scheduler_kwargs", "method.target_modules", "task.labels")
        )

    def _write(self, text: str) -> None:
        self.path.write_bytes(text.encode("utf-8", errors="surrogatepass"))

    def read(self) -> Outcome:
        value = self.load(self.path) if self.value is None else self.check(self.value)
        json.dumps(value, allow_nan=False).encode()
        return Outcome(value)

    def healthy(self) -> Any:
        if not self._healthy:
            for number, raw in enumerate(self.raws):
                self._write(_yaml(json.dumps(raw)))
                self._healthy[number] = self.read().value
        return self._healthy[self.number]


class Grids(RunFiles):
    """Files of ``tapertune compare``."""

    name = "grids"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.path = root / "grid.yaml"
        self.raws = [
            {
                "name": "g", "base": {"model": "minilm", "training": {"num_train_epochs": 1}},
                "rows": {"lora": {"method": {"name": "lora", "r": 4}, "rates": [0.1]},
                         "b": {"method": "aflora", "tasks": ["sst2"]}},
                "tasks": {"sst2": {"data": "sample", "train_rows": 20}, "own": {"task": "rte", "test": "x.csv"}},
                "seeds": [1, 2], "rates": {"from": 1e-4, "to": 1e-2, "per_decade": 4}, "best": 2, "trials": 3,
                "reference": "b", "stop": {"after": 0.3}, "keep_events": True,
            }
        ]  # fmt: skip
        self.load = lambda path: _whole(load_grid(path))
        self.check = lambda raw: _whole(check_grid(raw))

    def takes(self, change: Change) -> bool:
        place = change.path
        jobs = "base" in place[:1] or "method" in place[2:3]  # what is checked when jobs are made of it
        return jobs or (place[0] in ("rates", "rows", "tasks") and len(place) < 4)


def _whole(grid: Grid) -> Any:
    for row in grid.rows:
        grid.rates_of(row)
    return grid.model_dump()


def _run_file(method: str) -> dict[str, Any]:
    row = METHODS[method]
    plan = merge(row.plan(row.settings()), None)
    return {
        "name": "run", "model": "minilm", "dtype": "float32", "seed": 3, "output_dir": "runs/x", "max_skipped_steps": 3,
        "task": {"name": "text_classification", "data": "d", "text": "t", "labels": ["no", "yes"], "max_length": 64,
                 "train_rows": 10, "delimiter": "tab", "skip_bad_rows": True},
        "method": {"name": method, "target_modules": ["query", "value"], "dropout": 0.1, "factor_rates": {"B": 2.0}},
        "training": {"learning_rate": 0.01, "num_train_epochs": 2, "weight_decay": 0.1, "warmup_steps": 5,
                     "per_device_train_batch_size": 4, "bf16": False, "optim": "adamw_torch", "adam_beta1": 0.9,
                     "logging_steps": 5, "lr_scheduler_type": "linear", "eval_strategy": "epoch", "max_grad_norm": 1.0},
        "head": {"learning_rate": 0.02, "weight_decay": 0.0, "dropout": 0.1},
        "early_stopping": {"patience": 2, "threshold": 0.01},
        **({"plan": plan} if plan else {}),
    }  # fmt: skip


def _yaml(text: str) -> str:
    """JSON as YAML reads it: the numbers that JSON does not have are spelled otherwise."""
    words = {"NaN": ".nan", "Infinity": ".inf", "-Infinity": "-.inf"}
    return re.sub(r"(?:(?<=[:,] )|(?<=\[))(NaN|-?Infinity)(?=[,}\]\n]|$)", lambda match: words[match[0]], text)


Writer = Callable[[Path, list[dict[str, Any]]], None]


class Data(_TextKind):
    """Rows of every kind of task, as CSV, JSON lines, JSON and Parquet, packed and not."""

    name = "data"

    def __init__(self, root: Path) -> None:
        super().__init__(root / "none")
        self.folder = root / "rows"
        self.folder.mkdir()
        self.task, self.suffix, self.skip = "", "", False

    def damage(self, rng: random.Random) -> Damage:
        self.task, self.suffix = rng.choice(list(_ROWS)), rng.choice(list(_WRITERS))
        self.skip = rng.random() < 0.5
        rows = copy.deepcopy(_ROWS[self.task])
        self.path = self.folder / f"rows{self.suffix}"
        kind = rng.random()
        if kind < 0.6:
            changed, change = change_json(rows, rng)
            what, wrong = str(change), self._judges(change)
            try:
                self._write(changed, rng)
                return Damage(f"{self.task}{self.suffix} {what}", wrong)
            except Exception:  # what this format has no form for
                rows = copy.deepcopy(_ROWS[self.task])
        self._write(rows, rng)
        content = self.path.read_bytes()
        packed = self.suffix.endswith(".gz") and rng.random() < 0.7
        changed, what = change_bytes(gzip.decompress(content) if packed else content, rng)
        self.path.write_bytes(gzip.compress(changed, 1) if packed else changed)
        return Damage(f"{self.task}{self.suffix} {what}")

    def _write(self, rows: Any, rng: random.Random) -> None:
        _WRITERS[self.suffix](self.path, rows, rng)

    def _judges(self, change: Change) -> bool:
        """A text may not become of what is none. Labels, tags and answers may be written in several ways."""
        several = ("label", "tags", "answers", "tools")
        if self.suffix.startswith((".csv", ".tsv")) or len(change.path) < 2:
            return False
        return (
            change.is_wrong
            and change.path[1] not in several
            and not (self.task == "chat" or change.path[1] == "tokens")
        )

    def read(self) -> Outcome:
        task = declare(self.task, {"metrics": ["exact_match"]} if self.task in ("prompt_completion", "chat") else {})
        found = data.load(task, train=str(self.path), validation=str(self.path), skip_bad_rows=self.skip)
        assert isinstance(found.train, data.Split)
        examples = json.dumps(found.train.examples, ensure_ascii=False)
        examples.encode()
        return Outcome((found.task.labels, examples), said=found.train.bad > 0)

    def healthy(self) -> Any:
        key = self.task, self.suffix
        if key not in self._healthy and self.task:
            path, self.path = self.path, self.folder / f"healthy{self.suffix}"
            self._write(_ROWS[self.task], random.Random(0))
            self._healthy[key] = self.read().value
            self.path.unlink()
            self.path = path
        return self._healthy.get(key)


_WORDS = ("tea", "rain", "a very good day", "warm", "cold", "not bad", "so so", "long", "short", "Rome is in Italy")
_ROWS: dict[str, list[dict[str, Any]]] = {
    "text_classification": [{"text": f"{word} {i}", "label": ("no", "yes")[i % 2]} for i, word in enumerate(_WORDS)],
    "regression": [{"text": f"{word} {i}", "label": i / 3} for i, word in enumerate(_WORDS)],
    "token_classification": [
        {"tokens": [word, "x"], "tags": [("O", "B-PER")[i % 2], "O"]} for i, word in enumerate(_WORDS)
    ],
    "question_answering": [
        {"question": "where?", "context": f"in {word}.", "answers": {"text": [word], "answer_start": [3]}}
        for word in _WORDS
    ],
    "prompt_completion": [{"prompt": f"say {word}", "completion": word} for word in _WORDS],
    "chat": [
        {"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": "yes"}],
         "tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": 1}}}]}
        for word in _WORDS
    ],
}  # fmt: skip


def _lines(path: Path, rows: Any, rng: random.Random) -> None:
    text = "".join(as_text(row, rng) + "\n" for row in rows)
    _pack(path, text.encode("utf-8"))


def _list(path: Path, rows: Any, rng: random.Random) -> None:
    whole = rows if rng.random() < 0.5 else {"data": rows}
    _pack(path, as_text(whole, rng).encode("utf-8"))


def _csv(path: Path, rows: Any, rng: random.Random) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter="\t" if ".tsv" in path.name else ",")
    writer.writerow(rows[0])
    writer.writerows([[_cell(value) for value in row.values()] for row in rows])
    _pack(path, out.getvalue().encode("utf-8", errors="surrogatepass"))


def _cell(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return " ".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def _parquet(path: Path, rows: Any, rng: random.Random) -> None:
    import pyarrow
    import pyarrow.parquet

    if is_deep(rows):
        raise ValueError("nested at random, which columns are not")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _pack(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)


_WRITERS: dict[str, Callable[[Path, Any, random.Random], None]] = {
    ".jsonl": _lines, ".jsonl.gz": _lines, ".json": _list, ".json.gz": _list, ".csv": _csv, ".csv.gz": _csv,
    ".tsv": _csv, ".parquet": _parquet,
}  # fmt: skip
