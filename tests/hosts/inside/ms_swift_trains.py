"""``swift sft`` with the plug-in file, and ``swift infer``'s way of loading."""

from __future__ import annotations

import json
from pathlib import Path

from common import CONVERSATION, SETTINGS, STEPS, Findings, acted, base, logits, run


def train(findings: Findings, start: Path, method: str) -> None:
    import tapertune

    plugin = Path(tapertune.__path__[0]) / "integrations" / "plugins" / "ms_swift.py"
    rows = findings.folder / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(CONVERSATION) for _ in range(24)), encoding="utf-8")
    out = findings.folder / method
    run(
        "swift", "sft", "--model", start, "--model_type", "llama", "--template", "dummy", "--torch_dtype", "float32",
        "--external_plugins", plugin, "--tuner_type", f"tapertune_{method}", "--dataset", rows,
        "--output_dir", out, "--add_version", "false", "--max_steps", str(STEPS), "--per_device_train_batch_size", "4",
        "--gradient_accumulation_steps", "1", "--learning_rate", "1e-2", "--logging_steps", "1", "--report_to", "none",
        "--use_cpu", "true", "--bf16", "false", "--max_length", "64", "--split_dataset_ratio", "0", "--save_steps",
        str(STEPS), "--gradient_checkpointing", "false",
        TAPERTUNE_CONFIG=json.dumps(SETTINGS[method]),
    )  # fmt: skip
    acted(out / "events.jsonl", method)
    [adapter] = {path.parent for path in out.rglob("adapter_config.json")}
    findings.load_later(
        f"{method}: loaded without tapertune", adapter=adapter, base=start, expected=_answer(start, adapter)
    )


def _answer(start: Path, adapter: Path) -> list[float]:
    """Of the base's weights and the update, by the equations."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    import tapertune  # noqa: F401

    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(start), adapter).merge_and_unload())


if __name__ == "__main__":
    findings = Findings()
    start = base(findings.folder / "base")
    for method in ("aflora", "adalora"):
        findings.check(f"{method}: trains", train, findings, start, method)
    findings.load()
