"""The comparison's independent row: PEFT's own LoRA in the same modules, on the same batches, by the same Trainer."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from compare_table import Record
from peft import LoraConfig, get_peft_model

from tapertune.runfile.settings import RunSettings
from tapertune.tasks import data
from tapertune.tasks.encode import encode
from tapertune.train.measure import forward_of, measure
from tapertune.train.models import Built, load_base
from tapertune.train.prepare import Prepared, prepare
from tapertune.train.progress import Display
from tapertune.train.runner import trainer_of
from tapertune.train.suppress_logging import suppress_logging
from tapertune.train.trainer import Checkpointing, Costs

NAME = "peft-lora"


def scores(settings: RunSettings, official: Path, clock: Display) -> Record:
    """Trains by the settings of a LoRA run and scores both validation files.

    Raises:
        ArithmeticError: the evaluation loss is not a finite number.
    """
    prepared = prepare(settings)
    built = with_peft(prepared)
    trainer = trainer_of(replace(prepared, built=built), Checkpointing(Costs()), [clock])
    with suppress_logging():
        trainer.train()
    selection = measure(prepared.task, forward_of(trainer), next(iter(prepared.evaluation.values())))
    (split,) = data.load_evaluation(prepared.task, validation=str(official)).values()
    rows = encode(prepared.task, split.examples, built.tokenizer, prepared.task.max_length, train=False)
    test = measure(prepared.task, forward_of(trainer), rows)
    if not math.isfinite(loss := test.metrics["loss"]):
        raise ArithmeticError(f"training diverged: the evaluation loss is {loss}")
    size = sum(parameter.numel() for name, parameter in built.model.named_parameters() if name in built.adapter)
    return {"metric": test.score.metric, "selection": selection.score.value, "test": test.score.value,
            "metrics": test.metrics, "parameters": dict.fromkeys(("start", "average", "end"), size), "flops": None,
            "steps": trainer.state.global_step}  # fmt: skip


def with_peft(prepared: Prepared) -> Built:
    """The same base model and head with PEFT's LoRA where the prepared run has its own."""
    settings, ours = prepared.settings, prepared.built
    config = ours.model.peft_config["default"]
    assert settings.method.name == "lora" and not config.dropout, "the settings are those of LoRA without dropout"
    base, tokenizer, _ = load_base(
        settings.model, settings.dtype, prepared.task, settings.seed, dropout=settings.head.dropout
    )
    lora = LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        target_modules=sorted(ours.model.targeted_module_names),
        modules_to_save=config.modules_to_save,
        task_type=config.task_type,
    )
    with suppress_logging():
        model: Any = get_peft_model(base, lora)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    head = {name for name in trained if ".modules_to_save." in name}
    return Built(model=model, tokenizer=tokenizer, head=tuple(head), adapter=tuple(trained - head), base=ours.base)
