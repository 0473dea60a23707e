"""Run files drawn at random: settings that go together, and such that do not."""

from __future__ import annotations

import dataclasses
import inspect
import random
from typing import Any

from tapertune.adapt.spec import _KINDS
from tapertune.host.config import run_fields
from tapertune.methods import METHODS
from tapertune.runfile.arguments import training_defaults, training_names
from tapertune.runfile.blocks import EarlyStoppingBlock, HeadBlock, QuantizationBlock, TaskBlock
from tapertune.runfile.known import BASELINES
from tapertune.runfile.plan_schema import PIECES
from tapertune.runfile.settings import RunSettings
from tapertune.tasks import OWN, TASKS
from tapertune.tasks.declare import task_fields

VALUES: list[Any] = [
    None, True, False, 0, 1, 2, 7, -1, 300, 2**20, 2**20 + 1, 2**63, 0.0, 0.1, 0.5, 0.99, 1.0, 1.5, 2.0, -0.5, 1e-3,
    99.0, 100.0, 1e300, float("inf"), "", "x", "auto", "nf4", "float32", "A", "comma", ";", "ab", "latin-1", "<hidden>",
    "linear", "steps", "epoch", "causal_lm", "middle", "chat", "soft", "before", [], ["A"], ["x", "y"], ["accuracy"],
    ["rouge1"], [1, 2], [1, "x"], [["A", "B"]], [["A"]], {}, {"A": 2.0}, {"x": 1}, {"kind": "cubic"}, {"num_beams": 2},
    {"max_new_tokens": 0}, {"min_new_tokens": 200}, "a\x00b", "name\u2028", "n" * 201,
]  # fmt: skip


def run_file(draw: random.Random) -> dict[str, Any]:
    """A run file: right ones, such with a slip or two, and such as nobody would write."""
    method, task = draw.choice([*METHODS, *METHODS, *BASELINES]), draw.choice([*OWN, *TASKS])
    raw: dict[str, Any] = {"model": "m", "method": {"name": method}, "task": {"name": task}}
    if draw.random() < 0.1:
        raw["method"], raw["task"] = draw.choice([method, "aflroa"]), draw.choice([task, "qnly"])
    for _ in range(draw.choice([0, 1, 1, 2, 3, 5])):
        _change(draw, raw, method, task)
    if draw.random() < 0.02:
        raw.pop(draw.choice(list(raw)))
    return raw


def _change(draw: random.Random, raw: dict[str, Any], method: str, task: str) -> None:
    block = draw.choice(["", "method", "method", "task", "training", "training", "head", "plan", "plan", "others"])
    if block == "":
        name = draw.choice([*RunSettings.model_fields, "modle"])
        if name not in ("method", "task"):
            raw[name] = _value(draw, RunSettings.model_fields[name].default if name in RunSettings.model_fields else 1)
    elif block == "method" and isinstance(raw["method"], dict):
        known = ["r", "lora_dropout", *run_fields(method)] if method in METHODS else ["r"]
        name = draw.choice([*known, "lora_alpa"] if draw.random() < 0.1 else known)
        settings = METHODS[method].settings() if method in METHODS else None
        raw["method"][name] = _value(draw, getattr(settings, name, None))
    elif block == "task" and isinstance(raw["task"], dict):
        names = [*TaskBlock.model_fields, *task_fields(task), *task_fields(task)][1:]
        name = draw.choice([*names, draw.choice(["max_lenght", "text", "labels", "generation"])])
        raw["task"][name] = _value(draw, _default_of_task(task, name))
    elif block == "training":
        inside = raw.setdefault("training", {})
        if isinstance(inside, dict):
            name = draw.choice([*training_names(), *training_defaults(), "output_dir", "learning_rat"])
            inside[name] = _value(draw, _default_of_training(name))
    elif block == "plan":
        raw["plan"] = _plan(draw) if draw.random() < 0.8 else [_plan(draw) for _ in range(draw.randrange(3))]
    else:
        name = "head" if block == "head" else draw.choice(["early_stopping", "quantization"])
        kind: Any = {"head": HeadBlock, "early_stopping": EarlyStoppingBlock, "quantization": QuantizationBlock}[name]
        least = {"patience": 1} if name == "early_stopping" else {"bits": draw.choice([4, 8])} if name != "head" else {}
        raw[name] = {
            **least,
            **{draw.choice(list(kind.model_fields)): _value(draw, 0.1) for _ in range(draw.randrange(2))},
        }


def _plan(draw: random.Random) -> dict[str, Any]:
    plan: dict[str, Any] = {}
    for _ in range(draw.choice([1, 1, 2])):
        part = draw.choice(
            ["importance", "schedule", "policy", "penalties", "observe", "compact", "final_update", "polcy"]
        )
        if part in PIECES:
            plan[part] = _piece(draw, part)
        elif part == "penalties":
            plan[part] = (
                [_piece(draw, "penalty") for _ in range(draw.randrange(3))] if draw.random() < 0.8 else _value(draw, [])
            )
        else:
            plan[part] = draw.choice(["before", "after", "end", "never", True, 1, None])
    return plan


def _piece(draw: random.Random, part: str) -> Any:
    cls = draw.choice(PIECES[part])
    kind = next(kind for kind, (known, _) in _KINDS.items() if known is cls)
    piece: dict[str, Any] = {"kind": kind} if draw.random() < 0.7 else {}
    for field in dataclasses.fields(cls):
        needed = field.default is dataclasses.MISSING
        if draw.random() < (0.9 if needed else 0.3):
            default = {"gate": "E", "target": 3, "weight": 0.1, "boundaries": [0.5]}.get(field.name, field.default)
            piece[field.name] = _value(draw, list(default) if isinstance(default, tuple) else default)
            if field.name == "parts":
                piece["parts"] = [{"kind": "cubic"}, _piece(draw, "schedule")][: draw.randrange(3)]
    if draw.random() < 0.05:
        piece[draw.choice(["warmpu", "fold"])] = draw.choice([True, 0.1])
    return piece if draw.random() < 0.97 else draw.choice(VALUES)


def _value(draw: random.Random, default: Any) -> Any:
    """The default, which is right, or something else, which may be."""
    return (
        draw.choice(VALUES)
        if default is None or repr(default).endswith("Undefined") or draw.random() < 0.45
        else default
    )


def _default_of_task(task: str, name: str) -> Any:
    default = (
        inspect.signature(OWN[task]).parameters[name].default if task in OWN and name in task_fields(task) else None
    )
    if default is None:
        default = getattr(TASKS.get(task), name, None) or {"max_length": 64, "train_rows": 9, "train": "a.csv"}.get(
            name
        )
    if isinstance(default, tuple):
        return list(default)
    return default if isinstance(default, str | int | float | dict) else None


def _default_of_training(name: str) -> Any:
    from transformers import TrainingArguments

    if name in training_defaults():
        return training_defaults()[name]
    field = TrainingArguments.__dataclass_fields__.get(name)
    return field.default if field is not None and isinstance(field.default, str | int | float) else None
