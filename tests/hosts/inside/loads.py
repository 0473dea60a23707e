"""Loads what was trained, in a process that never imports tapertune.

Called with a file of tasks and the file to write; a task is what `Findings.load_later` was given.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from common import IDS, logits


def peft(task: dict[str, Any]) -> list[float]:
    import transformers
    from peft import PeftModel

    cls = getattr(transformers, task.get("auto", "AutoModelForCausalLM"))
    keywords = {"num_labels": 1} if "Classification" in task.get("auto", "") else {}
    return logits(PeftModel.from_pretrained(cls.from_pretrained(task["base"], **keywords), task["adapter"]))


def transformers_alone(task: dict[str, Any]) -> list[float]:
    from transformers import AutoModelForCausalLM

    return logits(AutoModelForCausalLM.from_pretrained(task["adapter"]))


def pipeline(task: dict[str, Any]) -> list[float]:
    from transformers import pipeline

    generate = pipeline("text-generation", model=task["adapter"], tokenizer=task["base"])
    assert generate("one two", max_new_tokens=2)
    return logits(generate.model)


def sentences(task: dict[str, Any]) -> list[float]:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(task["adapter"], device="cpu").encode(["one good film"])[0].tolist()


def setfit(task: dict[str, Any]) -> list[float]:
    from setfit import SetFitModel

    return SetFitModel.from_pretrained(task["adapter"]).predict_proba(["one good film"])[0].tolist()


def unet(task: dict[str, Any]) -> list[float]:
    import torch
    from diffusers import UNet2DConditionModel
    from peft import PeftModel

    model = PeftModel.from_pretrained(UNet2DConditionModel.from_pretrained(task["base"]), task["adapter"]).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        return model(torch.randn(1, 4, 8, 8), 3, torch.randn(1, 4, 16)).sample.flatten()[:16].tolist()


def main(tasks: Path, found: Path) -> None:
    faults: dict[str, str] = {}
    for task in json.loads(tasks.read_text(encoding="utf-8")):
        try:
            values = globals()[task.get("by", "peft")](task)
            worst = max(abs(a - b) for a, b in zip(values, task["expected"], strict=True))
            fault = "" if worst < task.get("within", 1e-4) else f"answers differ by {worst:.2g}"
        except Exception as error:
            traceback.print_exc()
            fault = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        faults[task["what"]] = fault
        found.write_text(json.dumps(faults), encoding="utf-8")


if __name__ == "__main__":
    assert "tapertune" not in sys.modules and IDS
    main(Path(sys.argv[1]), Path(sys.argv[2]))
