"""The command of lm-evaluation-harness reads adapters; the log-likelihoods that it writes are those of the model in
memory. Training is plain Trainer's.
"""

from __future__ import annotations

import json
from pathlib import Path

from common import IDS, WORDS, Findings, acted, arguments, base, config, tokenizer

TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: ["good", "bad"]
doc_to_target: "{{label}}"
metric_list: [{metric: acc}]
"""


def train(findings: Findings, start: Path, method: str) -> list[float]:
    """Log-likelihoods of the two choices behind the text."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    import tapertune

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(start), config(method, task_type="CAUSAL_LM"))
    out = findings.folder / method
    rows = [{"input_ids": torch.tensor(IDS[0]), "labels": torch.tensor(IDS[0])}] * 24
    trainer = Trainer(
        model, TrainingArguments(**arguments(out)), train_dataset=rows, callbacks=[tapertune.TapertuneCallback()]
    )
    trainer.train()
    acted(out / "events.jsonl", method)
    model.save_pretrained(out / "adapter")
    ids = tokenizer()("one film", return_tensors="pt").input_ids
    with torch.no_grad():
        scores = model.eval()(input_ids=ids).logits[0, -1].log_softmax(-1)
    return [float(scores[WORDS.index(word)]) for word in ("good", "bad")]


def evaluate(findings: Findings, start: Path, method: str, expected: list[float]) -> None:
    from common import run

    folder = findings.folder
    data = folder / "rows.jsonl"
    data.write_text("\n".join(json.dumps({"text": "one film", "label": i % 2}) for i in range(4)), encoding="utf-8")
    (folder / "sums.yaml").write_text(TASK.replace("DATA", str(data)), encoding="utf-8")
    model = f"pretrained={start},peft={folder / method / 'adapter'},dtype=float32"
    run(
        "lm_eval", "--model", "hf", "--model_args", model, "--tasks", "sums", "--include_path", folder,
        "--device", "cpu", "--output_path", folder / f"{method}-out", "--log_samples",
    )  # fmt: skip
    [samples] = (folder / f"{method}-out").rglob("samples_sums*.jsonl")
    first = json.loads(samples.read_text(encoding="utf-8").splitlines()[0])
    scores = [float(pair[0]) for pair in first["filtered_resps"]]
    worst = max(abs(a - b) for a, b in zip(scores, expected, strict=True))
    assert worst < 1e-3, f"log-likelihoods {scores} where the model's are {expected}"


if __name__ == "__main__":
    findings = Findings()
    start = base(findings.folder / "base")
    for method in ("aflora", "adalora"):
        expected = findings.check(f"{method}: trains under Trainer", train, findings, start, method)
        if expected is not None:
            findings.check(f"{method}: lm_eval --model_args peft=", evaluate, findings, start, method, expected)
