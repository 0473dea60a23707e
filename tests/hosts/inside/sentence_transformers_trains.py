"""SentenceTransformerTrainer with an adapter in the encoder, by ``add_adapter``."""

from __future__ import annotations

from common import Findings, acted, arguments, config, encoder


def train(findings: Findings, method: str) -> None:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )

    import tapertune

    start = findings.folder / "sentences"
    if not start.exists():
        SentenceTransformer(str(encoder(findings.folder / "encoder")), device="cpu").save_pretrained(str(start))
    model = SentenceTransformer(str(start), device="cpu")
    model.add_adapter(config(method))
    out = findings.folder / method
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**arguments(out)),
        train_dataset=Dataset.from_dict({"anchor": ["good film", "one two"] * 12, "positive": ["good", "three"] * 12}),
        loss=losses.MultipleNegativesRankingLoss(model),
        callbacks=[tapertune.TapertuneCallback()],
    )
    trainer.train()
    acted(out / "events.jsonl", method)
    model.save_pretrained(str(out / "model"))
    expected = model.eval().encode(["one good film"])[0].tolist()
    findings.load_later(f"{method}: loaded without tapertune", by="sentences", adapter=out / "model", expected=expected)


if __name__ == "__main__":
    findings = Findings()
    for method in ("aflora", "adalora"):
        findings.check(f"{method}: trains", train, findings, method)
    findings.load()
