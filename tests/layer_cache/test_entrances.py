"""The cache in a run of a plan: under Trainer, in a plain loop, by the command; with every way of freezing layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import Rows, batch
from train.tiny_run import raw_settings, write_data, write_model

import tapertune
from tapertune.errors import TapertuneError
from tapertune.integrations import restore, save_state
from tapertune.runfile.settings import check_settings
from tapertune.train.runner import run

RAMP = {"kind": "cubic", "warmup": 2, "cooldown": 8, "every": 1}
UP = {"policy": {"kind": "bottom_up", "layers": 0.75}, "schedule": RAMP}
EVIDENCE = {**UP, "policy": {**UP["policy"], "evidence": 0.5}}
AFLORA = {"policy": {"kind": "lowest_fraction"}, "schedule": {**RAMP, "warmup": 1}}
RANKS = {"policy": {"kind": "rank_budget", "gate": "E", "target": 4}, "schedule": {**RAMP, "warmup": 1},
         "importance": {"kind": "|g*p|"}}  # fmt: skip
PLANS: dict[str, tuple[str, Any]] = {
    "by clock": ("lora", UP),
    "by evidence": ("lora", EVIDENCE),
    "beside AFLoRA": ("aflora", [AFLORA, UP]),
    "beside AdaLoRA": ("adalora", [RANKS, EVIDENCE]),
}


def model_of(method: str, **settings: Any) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
                             "intermediate_size": 32, "max_position_embeddings": 32}  # fmt: skip
    base = BertForSequenceClassification(BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    torch.manual_seed(1)
    config = tapertune.make_config(method, modules_to_save=["classifier"], **settings)
    return get_peft_model(base, config)  # type: ignore[arg-type]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(values, other[name]) for name, values in one.items()) and one.keys() == other.keys()


def in_loop(method: str, plan: Any, cache: Any, steps: int = 16) -> tuple[Any, Any]:
    model = model_of(method)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    controller = tapertune.attach(model, optimizer, total_steps=steps, plan=plan, cache=cache)
    for step in range(steps):
        model(**batch(seed=step % 3)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    controller.finish()
    return weights(model), controller.summary()


@pytest.mark.parametrize("name", PLANS)
def test_a_plain_loop_is_the_one_without_a_cache(name: str) -> None:
    method, plan = PLANS[name]
    kept, summary = in_loop(method, plan, {"memory": "1MiB"})
    plain, without = in_loop(method, plan, None)
    assert same(kept, plain)
    counts = summary["cache"]
    fills = 2 if "rank_budget" in str(plan) else 1  # ranks that are removed make other weights of frozen layers
    assert counts["hits"] > 0 and counts["misses"] <= fills * 3 * 4 and counts["layer"] > 0, counts
    assert counts["carried"] > 0 or "evidence" in str(plan)  # by evidence, layers may freeze at once
    assert "cache" not in without


def under_trainer(folder: Path, cache: Any, resume: str | None = None, **arguments: Any) -> tuple[Any, Any, Any]:
    from transformers import Trainer, TrainingArguments

    model = model_of("lora")
    callback = tapertune.TapertuneCallback(plan=UP, cache=cache)
    fixed: dict[str, Any] = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "seed": 3, "max_steps": 16,
                             "per_device_train_batch_size": 8, "learning_rate": 1e-2, "save_steps": 12}  # fmt: skip
    rows: Any = Rows(32)
    trainer = Trainer(
        model, TrainingArguments(str(folder), **fixed, **arguments), train_dataset=rows, callbacks=[callback]
    )
    trainer.train(resume_from_checkpoint=resume)
    assert callback.controller is not None
    return weights(model), callback.controller.summary(), trainer


def test_under_trainer_and_resumed(tmp_path: Path) -> None:
    """Rows are shuffled, so that they meet in other batches each epoch: rounding's tolerance."""
    plain, _, _ = under_trainer(tmp_path / "plain", None)
    folder = {"memory": 0, "disk": "1MB", "folder": str(tmp_path / "rows")}
    kept, summary, _ = under_trainer(tmp_path / "kept", folder)
    assert summary["cache"]["hits"] > 0
    assert all(torch.allclose(values, kept[name], atol=1e-5) for name, values in plain.items())
    again, resumed, _ = under_trainer(tmp_path / "kept", folder, resume=str(tmp_path / "kept" / "checkpoint-12"))
    assert resumed["cache"]["misses"] == 0 and resumed["cache"]["hits"] == 32
    assert all(torch.allclose(values, kept[name], atol=1e-5) for name, values in again.items())


def test_compiled_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TapertuneError, match=r"training.torch_compile"):
        under_trainer(tmp_path, True, torch_compile=True)


def test_a_saved_state_has_the_rows_found(tmp_path: Path) -> None:
    settings = {"disk": "1MB", "folder": str(tmp_path / "rows"), "memory": 0}
    model = model_of("lora")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    controller = tapertune.attach(model, optimizer, total_steps=16, plan=UP, cache=settings)
    for step in range(12):
        model(**batch(seed=step % 2)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    (tmp_path / "saved").mkdir()
    save_state(controller, tmp_path / "saved")
    state = {name: values.clone() for name, values in model.state_dict().items()}
    controller.retire()
    model = model_of("lora")
    model.load_state_dict(state)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    controller = tapertune.attach(model, optimizer, total_steps=16, plan=UP, cache=settings)
    restore(controller, tmp_path / "saved")
    model(**batch(seed=0)).loss.backward()
    assert controller.cache is not None
    assert controller.cache.summary()["hits"] == 4
    controller.finish()


def test_by_the_command(tmp_path: Path) -> None:
    write_model(tmp_path / "model", layers=3)
    write_data(tmp_path / "data", rows=24)
    raw = raw_settings(tmp_path, "lora", training__save_strategy="no", training__num_train_epochs=4)
    raw |= {"plan": {"policy": {"kind": "bottom_up", "layers": 0.7}, "schedule": {**RAMP, "cooldown": 6}}}
    with pytest.raises(TapertuneError, match=r"embeddings.dropout \(0.1\).*cache.dropout"):
        run(check_settings({**raw, "cache": True}))
    assert not (tmp_path / "run").exists()
    record = run(check_settings({**raw, "cache": {"memory": "1MiB", "dropout": "off"}}))
    counts = record["cache"]
    assert counts["layer"] == 2 and counts["hits"] >= 24 and counts["dropout"] == "off" and 0 < counts["hit_rate"] < 1
    assert record["settings"]["cache"]["memory"] == "1MiB"


def test_settings_of_a_run(tmp_path: Path) -> None:
    raw = raw_settings(tmp_path, "lora")
    assert check_settings({**raw, "cache": False}).cache is None
    for block, words in (
        ({"memroy": 1}, r"cache.memroy.*cache.memory"),
        ({"memory": "many"}, r"cache.memory is 'many'"),
        ({"folder": "rows"}, r"cache.folder needs cache.disk"),
        ({"dropout": "maybe"}, r"cache.dropout is 'maybe'"),
        (3, r"cache is 3.*a block of settings"),
    ):
        with pytest.raises(TapertuneError, match=words):
            check_settings({**raw, "cache": block})
    with pytest.raises(TapertuneError, match=r"cache: head has no adapter"):
        check_settings({**raw_settings(tmp_path, "head"), "cache": True})
