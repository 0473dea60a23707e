"""``llamafactory-cli train`` goes on from an adapter that ``tapertune init`` wrote."""

from __future__ import annotations

import json
from pathlib import Path

from common import SETTINGS, STEPS, Findings, acted, base, run
from ms_swift_trains import _answer


def train(findings: Findings, start: Path, method: str) -> None:
    folder = findings.folder
    options = [word for key, value in SETTINGS[method].items() for word in (f"--method.{key}", json.dumps(value))]
    run("tapertune", "init", start, "--method", method, "--out", folder / f"start-{method}", *options)
    (folder / "rows.json").write_text(json.dumps([{"instruction": "add one and two", "input": "", "output": "3"}] * 24))
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
    out = folder / method
    settings = {
        "model_name_or_path": str(start), "adapter_name_or_path": str(folder / f"start-{method}"), "stage": "sft",
        "do_train": True, "finetuning_type": "lora", "dataset": "rows", "dataset_dir": str(folder), "template": "empty",
        "cutoff_len": 64, "output_dir": str(out), "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
        "max_steps": STEPS, "learning_rate": 1e-2, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "use_cpu": True, "bf16": False, "overwrite_cache": True, "preprocessing_num_workers": 1,
        "disable_gradient_checkpointing": True,
    }  # fmt: skip
    (folder / f"{method}.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    run("llamafactory-cli", "train", folder / f"{method}.yaml", TAPERTUNE_CALLBACK="1")
    acted(out / "events.jsonl", method)
    findings.load_later(f"{method}: loaded without tapertune", adapter=out, base=start, expected=_answer(start, out))


if __name__ == "__main__":
    findings = Findings()
    start = base(findings.folder / "base")
    for method in ("aflora", "adalora"):
        findings.check(f"{method}: trains", train, findings, start, method)
    findings.load()
