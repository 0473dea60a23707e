"""TRL's SFT, DPO and reward trainers, which make the adapter from ``peft_config``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import STEPS, Findings, acted, arguments, base, config, logits, tokenizer

ROWS = 24
PROMPTS, RIGHT, WRONG = ["2 + 1 ="] * ROWS, [" 3"] * ROWS, [" 4"] * ROWS
COLUMNS = {
    "SFT": {"prompt": PROMPTS, "completion": RIGHT},
    "DPO": {"prompt": PROMPTS, "chosen": RIGHT, "rejected": WRONG},
    "Reward": {"chosen": ["2 + 1 = 3"] * ROWS, "rejected": ["2 + 1 = 4"] * ROWS},
}


def train(findings: Findings, kind: str, method: str) -> None:
    import transformers
    import trl
    from datasets import Dataset

    import tapertune

    reward = kind == "Reward"
    auto = "AutoModelForSequenceClassification" if reward else "AutoModelForCausalLM"
    start = base(
        findings.folder / ("classifier" if reward else "base"), "SequenceClassification" if reward else "CausalLM"
    )
    out = findings.folder / f"{kind}-{method}"
    made: Any = getattr(trl, f"{kind}Trainer")(
        model=getattr(transformers, auto).from_pretrained(start),
        args=getattr(trl, f"{kind}Config")(**arguments(out)),
        train_dataset=Dataset.from_dict(COLUMNS[kind]),
        processing_class=tokenizer(),
        peft_config=config(method, task_type="SEQ_CLS" if reward else "CAUSAL_LM"),
        callbacks=[tapertune.TapertuneCallback()],
    )
    made.train()
    assert made.state.global_step == STEPS
    acted(out / "events.jsonl", method)
    made.save_model(str(out / "adapter"))
    expected = logits(made.model)
    findings.load_later(
        f"{kind}, {method}: loaded without tapertune",
        adapter=Path(out / "adapter"),
        base=start,
        auto=auto,
        expected=expected,
    )
    if kind == "SFT":
        for by, what in (("transformers_alone", "AutoModelForCausalLM"), ("pipeline", "pipeline")):
            findings.load_later(
                f"{what}, {method}: loaded without tapertune", by=by, adapter=Path(out / "adapter"), base=start,
                expected=expected,
            )  # fmt: skip


if __name__ == "__main__":
    findings = Findings()
    for kind in COLUMNS:
        for method in ("aflora", "adalora"):
            findings.check(f"{kind}, {method}: trains", train, findings, kind, method)
    findings.load()
