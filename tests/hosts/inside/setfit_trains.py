"""SetFit's trainer with an adapter in the body."""

from __future__ import annotations

from common import STEPS, Findings, acted, config, encoder


def train(findings: Findings, method: str) -> None:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel, Trainer, TrainingArguments

    import tapertune

    start = findings.folder / "sentences"
    if not start.exists():
        SentenceTransformer(str(encoder(findings.folder / "encoder")), device="cpu").save_pretrained(str(start))
    model = SetFitModel.from_pretrained(str(start))
    model.model_body.add_adapter(config(method))
    out = findings.folder / method
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(out), max_steps=STEPS, batch_size=4, body_learning_rate=1e-2, logging_steps=1,
            save_strategy="no", report_to="none", num_iterations=2,
        ),
        train_dataset=Dataset.from_dict({"text": ["good film", "bad film"] * 6, "label": [1, 0] * 6}),
        callbacks=[tapertune.TapertuneCallback()],
    )  # fmt: skip
    trainer.train()
    acted(out / "events.jsonl", method)
    model.save_pretrained(str(out / "model"))
    (out / "model" / "config.json").unlink()  # with an adapter, LoRA's too, SetFit writes one that it cannot read
    expected = model.predict_proba(["one good film"])[0].tolist()
    findings.load_later(f"{method}: loaded without tapertune", by="setfit", adapter=out / "model", expected=expected)


if __name__ == "__main__":
    findings = Findings()
    for method in ("aflora", "adalora"):
        findings.check(f"{method}: trains", train, findings, method)
    findings.load()
