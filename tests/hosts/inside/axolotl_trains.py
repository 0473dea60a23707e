"""``axolotl train`` with the plug-in."""

from __future__ import annotations

import json
from pathlib import Path

from common import CONVERSATION, SETTINGS, STEPS, Findings, acted, base, run
from ms_swift_trains import _answer


def train(findings: Findings, start: Path, method: str) -> None:
    folder = findings.folder
    rows, out = folder / "rows.jsonl", folder / method
    rows.write_text("\n".join(json.dumps(CONVERSATION) for _ in range(24)), encoding="utf-8")
    settings = {
        "base_model": str(start), "plugins": ["tapertune.integrations.axolotl.TapertunePlugin"], "adapter": "tapertune",
        "tapertune": {"method": method, **SETTINGS[method]}, "lora_target_linear": True,
        "datasets": [{"path": str(rows), "ds_type": "json", "type": "chat_template"}],
        "chat_template": "tokenizer_default", "output_dir": str(out),
        "dataset_prepared_path": str(folder / "prepared"), "sequence_len": 64,
        "micro_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": STEPS, "num_epochs": 1,
        "learning_rate": 1e-2, "optimizer": "adamw_torch", "lr_scheduler": "constant", "bf16": False, "fp16": False,
        "tf32": False, "logging_steps": 1, "save_strategy": "no", "gradient_checkpointing": False, "val_set_size": 0,
        "attn_implementation": "eager", "sample_packing": False,
    }  # fmt: skip
    (folder / f"{method}.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    run("axolotl", "train", folder / f"{method}.yaml", "--launcher", "python", AXOLOTL_DO_NOT_TRACK="1")
    acted(out / "events.jsonl", method)
    findings.load_later(f"{method}: loaded without tapertune", adapter=out, base=start, expected=_answer(start, out))


if __name__ == "__main__":
    findings = Findings()
    start = base(findings.folder / "base")
    for method in ("aflora", "adalora"):
        findings.check(f"{method}: trains", train, findings, start, method)
    findings.load()
