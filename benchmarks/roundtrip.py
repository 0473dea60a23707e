"""Trains MiniLM a few steps by each method and asks every form of the adapter for the same logits.

Forms: as trained; saved and loaded; merged in memory; merged shard by shard; exported as plain LoRA, loaded by PEFT in
a process that never imports tapertune; saved and loaded in a fresh process. Writes docs/roundtrip.md with ``--write``.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

import tapertune
from tapertune.files import write_text
from tapertune.interop import export_lora, merge
from tapertune.methods import METHODS
from tapertune.train.models import find_model

STEPS, ROWS = 8, 8
FORMS = ("loaded", "merged", "merged by shards", "fresh process", "plain LoRA")
PAGE = Path(__file__).parent.parent / "docs" / "roundtrip.md"
HEAD = f"""# The same adapter in every form

Written by `benchmarks/roundtrip.py`: MiniLM, {STEPS} steps on QNLI by each method, then the largest difference of
a logit from those of the trained model, on {ROWS} rows in float32. Plain LoRA is the default export, of
one rank for all modules; LoRAN is truncated there at a relative error of 1e-4 of each module's update.

| method | moved the logits by | {" | ".join(FORMS)} | error of the export |
|---|---|{"---|" * len(FORMS)}---|
"""

# Run by a process of its own: folder of the base, of the adapter, of the rows; whether tapertune may be imported.
READER = """
import sys
base, adapter, rows, ours = sys.argv[1:]
if ours == "yes":
    import tapertune
from tapertune.files import write_text
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging
logging.set_verbosity_error(); logging.disable_progress_bar()
model = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base), adapter).eval()
assert ours == "yes" or "tapertune" not in sys.modules
with torch.no_grad():
    logits = model(**torch.load(rows, weights_only=True)).logits
torch.save(logits, adapter + "/logits.pt")
"""


def base_model(folder: str | Path) -> Any:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()


def read_elsewhere(base: Path, adapter: Path, rows: Path, *, ours: bool) -> torch.Tensor:
    """Logits of a saved adapter, from a fresh process."""
    command = [sys.executable, "-c", READER, str(base), str(adapter), str(rows), "yes" if ours else "no"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return torch.load(adapter / "logits.pt", weights_only=True)


def roundtrip(method: str, folder: Path) -> dict[str, float]:
    """Largest differences of a logit, by form; ``moved`` by training, ``export`` the update's relative error."""
    path = find_model("minilm")
    base = base_model(path)
    base.save_pretrained(folder / "base")  # with its head, which starts at random
    base = base_model(folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(path)
    batches = [_batch(tokenizer, "train", i) for i in range(STEPS)]
    asked = _batch(tokenizer, "validation", 0)
    del asked["labels"]
    torch.save(asked, folder / "rows.pt")
    with torch.no_grad():
        plain = base(**asked).logits
    config = tapertune.make_config(method, task_type="SEQ_CLS", base_model_name_or_path=str(folder / "base"))
    torch.manual_seed(0)
    model = get_peft_model(base, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    controller = tapertune.attach(model, optimizer, total_steps=STEPS)
    for batch in batches:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    controller.finish()
    with torch.no_grad():
        expected = model.eval()(**asked).logits
        model.save_pretrained(folder / "adapter")
        loaded = PeftModel.from_pretrained(base_model(folder / "base"), folder / "adapter").eval()(**asked).logits
        report = export_lora(folder / "adapter", folder / "lora", max_error=None if _linear(method) else 1e-4)
        merge(folder / "base", folder / "adapter", folder / "merged")
        shards = AutoModelForSequenceClassification.from_pretrained(folder / "merged").eval()(**asked).logits
        forms = {
            "loaded": loaded,
            "merged": model.merge_and_unload().eval()(**asked).logits,
            "merged by shards": shards,
            "fresh process": read_elsewhere(folder / "base", folder / "adapter", folder / "rows.pt", ours=True),
            "plain LoRA": read_elsewhere(folder / "base", folder / "lora", folder / "rows.pt", ours=False),
        }
    differences = {form: (logits - expected).abs().max().item() for form, logits in forms.items()}
    moved = (expected - plain).abs().max().item()
    return {"moved": moved, **differences, "export": report.worst}


def _linear(method: str) -> bool:
    row = METHODS[method]
    return row.chain(row.settings()).linear


def _batch(tokenizer: Any, split: str, index: int) -> dict[str, torch.Tensor]:
    sample = files("tapertune.tasks") / "samples" / "qnli" / f"{split}.jsonl.gz"
    lines = gzip.decompress(sample.read_bytes()).decode().splitlines()
    chosen = [json.loads(line) for line in lines[index * ROWS : (index + 1) * ROWS]]
    pairs = tokenizer([r["question"] for r in chosen], [r["sentence"] for r in chosen], padding=True, truncation=True,
                      max_length=64, return_tensors="pt")  # fmt: skip
    return {**pairs, "labels": torch.tensor([r["label"] for r in chosen])}


def main(arguments: list[str]) -> int:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    lines = []
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            found = roundtrip(method, Path(folder))
        print(json.dumps({"method": method, **found}), flush=True)
        cells = [f"{found[key]:.1e}" for key in ("moved", *FORMS, "export")]
        lines.append(f"| {method} | " + " | ".join(cells) + " |\n")
    if "--write" in arguments:
        write_text(PAGE, HEAD + "".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
