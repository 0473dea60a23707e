"""Runs whose answers are generated: data, and the settings of a run of twelve steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.tiny_text import TEMPLATE, tokenizer

from tapertune.runfile.settings import check_settings

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


def write(root: Path, model: Any, *, chat: bool = False) -> None:
    model.save_pretrained(root / "model")
    tokenizer(chat=TEMPLATE if chat else None, end="<|end|>" if chat else "</s>").save_pretrained(root / "model")
    for name, step in (("train", 1), ("validation", 2)):
        rows = []
        for number in range(24):
            first, second = NUMBERS[number % 8], NUMBERS[(number * step + 1) % 8]
            row = {"prompt": f"the sum of {first} and {second} is", "completion": f"{second} apples"}
            messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
            rows.append(json.dumps({**row, "messages": messages}) + "\n")
        (root / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")


def settings(root: Path, method: str, task: dict[str, Any]) -> Any:
    generation = {"max_new_tokens": 4, **task.pop("generation", {})}
    adapter = {"r": 2, "target_modules": ["q_proj", "v_proj"]} if method not in ("full", "head") else {}
    return check_settings(
        {
            "model": str(root / "model"),
            "task": {"train": str(root / "train.jsonl"), "validation": str(root / "validation.jsonl"),
                     "max_length": 24, "generation": generation, **task},
            "method": {"name": method, **adapter},
            "training": {"learning_rate": 2e-2, "per_device_train_batch_size": 8, "max_steps": 12,
                         "save_strategy": "no", "eval_strategy": "no", "logging_steps": 4, "warmup_steps": 0},
            "output_dir": str(root / "run"),
        }
    )  # fmt: skip
