"""What was written before, and how: the settings of each case, and the loop and the Trainer that both write and resume.

The functions use PEFT, transformers and what ``import tapertune`` offers, so that they run with any version of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

import tapertune

FILES = Path(__file__).parent / "files"
STEPS, SAVED, STOPPED = 12, 5, 8  # of a run: all, those before the checkpoint, those before it is interrupted
HEAD = ["bert.pooler.dense", "classifier"]  # which the base model lacks
RAMP = {"kind": "cubic", "warmup": 1, "cooldown": 3, "every": 1}
BUDGET = {"init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 3, "deltaT": 1}
TARGETS = ["query", "intermediate.dense"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """An adapter's method and plan.

    Attributes:
        method: name in ``METHODS``.
        settings: of its config.
        plan: changes to the method's plan.
        steps: of ``STEPS`` after which a plain loop saves the adapter; the run is finished if it is all of them.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] | None = None
    steps: int = STEPS


# Adapters as a plain loop leaves them: some factors frozen, ranks that differ by module, a rank that is only masked.
ADAPTERS = {
    "lora": Case(method="lora", settings={"r": 2}),
    "aflora": Case(method="aflora", settings={"r": 2, "projection_scope": "all"}, plan={"schedule": RAMP}, steps=5),
    "aflora_folded": Case(
        method="aflora", settings={"r": 2}, steps=7,
        plan={"schedule": RAMP, "policy": {"freeze_vectors": True, "fold": True}},
    ),
    "bottom_up": Case(
        method="lora", settings={"r": 2},
        plan={"schedule": {**RAMP, "cooldown": 8}, "policy": {"kind": "bottom_up", "layers": 1, "fold": True}},
    ),
    "adalora": Case(method="adalora", settings=BUDGET),
    "adalora_compact": Case(method="adalora", settings=BUDGET, plan={"compact": "on_event"}, steps=5),
    "adalora_masked": Case(method="adalora", settings=BUDGET, plan={"compact": "never"}),
    "lora2": Case(method="lora2", settings={**BUDGET, "k": 3}),
    "sora": Case(method="sora", settings={"r": 4, "threshold": 0.05}),
    "loran": Case(method="loran", settings={"r": 3}),
    "loran_deep": Case(method="loran", settings={"r": 3, "activation": "tanh", "p_sizes": [2], "offsets": True}),
    "elora": Case(method="elora", settings={"r": 6}),
    "elora_drawn": Case(method="elora", settings={"r": 6, "save_projection": False}),
}  # fmt: skip

# Runs of the command; their plans have the settings' spelling of that time.
RUNS = {
    **{name: ADAPTERS[name] for name in
       ("lora", "aflora", "aflora_folded", "bottom_up", "adalora", "lora2", "sora", "loran", "elora")},
    "full": Case(method="full"),
    "head": Case(method="head"),
}  # fmt: skip

# Runs under transformers' Trainer; pruned ranks are gone already when the checkpoint is written.
TRAINED = {
    **{name: ADAPTERS[name] for name in ("lora", "aflora", "bottom_up", "adalora_compact", "loran", "elora")},
    "lora2_compact": Case(method="lora2", settings={**BUDGET, "k": 3}, plan={"compact": "on_event"}),
    "sora_compact": Case(method="sora", settings={"r": 4, "threshold": 0.05}, plan={"compact": "on_event"}),
}

# Small gradients are those that rounding changes most; of them Adam makes large steps unless its epsilon is larger.
TRAINING = {
    "learning_rate": 2e-2, "adam_epsilon": 1e-3, "per_device_train_batch_size": 4, "max_steps": STEPS,
    "warmup_steps": 0, "logging_steps": 1, "save_strategy": "steps", "save_steps": SAVED,
}  # fmt: skip


def ids(rows: int = 24, length: int = 8) -> torch.Tensor:
    """Token ids of the tiny base model, the same anywhere: (rows, length)."""
    i, j = torch.arange(rows)[:, None], torch.arange(length)[None]
    return (7 * i + 5 * j + 3 * i * j) % 14 + 1


def base(folder: Path | str) -> Any:
    """The base model, with a head that starts at random."""
    torch.manual_seed(0)
    with _without_word_of_the_head():
        return AutoModelForSequenceClassification.from_pretrained(folder)


@contextmanager
def _without_word_of_the_head() -> Iterator[None]:
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def adapted(case: Case, base_folder: Path | str, **plan: Any) -> Any:
    """The base model with an adapter of the case, whose head trains too."""
    model = base(base_folder)
    config = tapertune.make_config(
        case.method, target_modules=TARGETS, modules_to_save=HEAD, task_type="SEQ_CLS", **case.settings, **plan
    )
    return get_peft_model(model, config)


def logits(model: Any) -> torch.Tensor:
    """Of the first four rows, without dropout: (4, 2)."""
    with torch.no_grad():
        return model.eval()(input_ids=ids(4)).logits


def loop(case: Case, base_folder: Path | str) -> Any:
    """A plain loop of ``case.steps`` steps; returns the model."""
    plan = {} if case.plan is None else {"plan": case.plan}  # in the config, so that it is saved with the adapter
    model = adapted(case, base_folder, **plan)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2, eps=1e-3)
    controller = tapertune.attach(model, optimizer, total_steps=STEPS)
    rows = ids()
    for step in range(case.steps):
        batch = rows[4 * (step % 6) :][:4]
        model(input_ids=batch, labels=batch[:, 0] % 2).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if case.steps == STEPS:
        controller.finish()
    return model


class Rows(torch.utils.data.Dataset):
    """``ids`` with labels."""

    def __len__(self) -> int:
        return len(ids())

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = ids()[index]
        return {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row[0] % 2}


def trainer(case: Case, base_folder: Path | str, folder: Path | str, *callbacks: TrainerCallback) -> Trainer:
    """A Trainer of ``STEPS`` steps with tapertune's callback, and these behind it."""
    arguments = TrainingArguments(
        output_dir=str(folder), report_to="none", use_cpu=True, disable_tqdm=True, seed=3, **TRAINING
    )
    return Trainer(
        adapted(case, base_folder), arguments, train_dataset=Rows(),
        callbacks=[tapertune.TapertuneCallback(case.plan), *callbacks],
    )  # fmt: skip


def run_file(name: str) -> dict[str, Any]:
    """The settings of a run of the command, which is started where ``base`` and ``data`` are."""
    case = RUNS[name]
    adapter = {} if case.method in ("full", "head") else {"target_modules": TARGETS, **case.settings}
    return {
        "name": name,
        "model": "base",
        "task": {"name": "text_classification", "train": "data/train.csv", "validation": "data/validation.jsonl",
                 "max_length": 16},
        "method": {"name": case.method, **adapter},
        **({} if case.plan is None else {"plan": case.plan}),
        "training": {**TRAINING, "eval_strategy": "steps", "eval_steps": 4, "save_total_limit": 5},
        "output_dir": f"out/{name}",
        "seed": 7,
    }  # fmt: skip
