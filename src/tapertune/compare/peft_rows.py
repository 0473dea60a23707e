"""PEFT's own methods as rows: in the same modules, on the same batches, under the same Trainer."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback, TrainerControl, TrainerState

from ..errors import TapertuneError, unknown
from ..runfile.settings import RunSettings
from ..tasks import data as data_of
from ..tasks.encode import encode
from ..train.measure import Measured, forward_of, measure
from ..train.models import Built, load_base
from ..train.prepare import Prepared, prepare
from ..train.runner import trainer_of
from ..train.suppress_logging import suppress_logging
from ..train.trainer import Checkpointing, Clock, Costs, total_steps
from .watch import Watch

_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "peft-lora": ("LoraConfig", {}),
    "peft-dora": ("LoraConfig", {"use_dora": True}),
    "peft-vera": ("VeraConfig", {}),
    "peft-adalora": (
        "AdaLoraConfig",
        {"init_r": 12, "target_r": 8, "tinit": 0.1, "tfinal": 0.3, "deltaT": 10},
    ),
}
_SET_BY_RUN = ("task_type", "peft_type", "inference_mode", "base_model_name_or_path", "total_step", "auto_mapping")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeftRun:
    """What such a run found."""

    selection: Measured
    test: Measured
    parameters: dict[str, float]
    flops: float
    costs: Costs
    steps: int
    adapter_bytes: int


def peft_config(method: Mapping[str, Any], steps: int, **fixed: Any) -> Any:
    """PEFT's config of a row.

    Args:
        method: the row's block; AdaLoRA's ``tinit`` and ``tfinal`` may be fractions of the run.
        steps: of the run.
        **fixed: fields that the run sets.

    Raises:
        TapertuneError: a field is none of the config's, or its value is refused.
    """
    kind, defaults = _CONFIGS[method["name"]]
    config = getattr(peft, kind)
    names = [field.name for field in dataclasses.fields(config) if field.init and field.name not in _SET_BY_RUN]
    fields = {**defaults, **{name: value for name, value in method.items() if name != "name"}}
    for name in fields:
        if name not in names:
            raise unknown(f"setting of {method['name']}", name, names)
    if kind == "AdaLoraConfig":
        for name in ("tinit", "tfinal"):
            value = fields[name]
            fields[name] = math.floor(value * steps) if isinstance(value, float) and value < 1 else value
        fields["total_step"] = steps
    try:
        return config(**{**fields, **fixed})
    except (TypeError, ValueError) as error:
        raise TapertuneError(f"{method['name']}: {str(error).splitlines()[0]}") from error


class _Allocating(TrainerCallback):
    """Has PEFT's AdaLoRA decide: its documentation asks for this call after each step, while gradients are there."""

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        kwargs["model"].base_model.update_and_allocate(state.global_step)


def run_peft(method: Mapping[str, Any], settings: RunSettings, test: Path, watch: Watch) -> PeftRun:
    """Trains a row of PEFT's and scores it.

    Args:
        method: the row's block.
        settings: of the run of our LoRA whose place it takes.
        test: file of the test rows.
        watch: follows the run.

    Raises:
        TapertuneError: the row does not fit the model.
    """
    prepared = prepare(settings)
    steps = total_steps(prepared.args, len(prepared.train))  # pyright: ignore[reportArgumentType]
    built = _with_peft(method, prepared, steps)
    costs = Costs()
    callbacks = [Clock(costs), watch, *([_Allocating()] if method["name"] == "peft-adalora" else [])]
    trainer = trainer_of(replace(prepared, built=built), Checkpointing(costs), callbacks)
    with suppress_logging():
        trainer.train()
    selection = measure(prepared.task, forward_of(trainer), next(iter(prepared.evaluation.values())))
    (split,) = data_of.load_evaluation(prepared.task, validation=str(test)).values()
    rows = encode(prepared.task, split.examples, built.tokenizer, prepared.task.max_length, train=False)
    measured = measure(prepared.task, forward_of(trainer), rows)
    sizes = {name: parameter.numel() for name, parameter in built.model.named_parameters()}
    adapter, head = (sum(sizes[name] for name in names) for names in (built.adapter, built.head))
    return PeftRun(
        selection=selection, test=measured, costs=costs, steps=trainer.state.global_step,
        parameters={"start": adapter, "average": adapter, "end": adapter, "head": head, "base": built.base},
        flops=_step_flops(prepared, built.model, costs) * costs.tokens, adapter_bytes=_saved_bytes(built.model),
    )  # fmt: skip


def _with_peft(method: Mapping[str, Any], prepared: Prepared, steps: int) -> Built:
    """The same base model and head with PEFT's method where the prepared run has our LoRA."""
    settings, ours = prepared.settings, prepared.built
    own = ours.model.peft_config["default"]
    base, tokenizer, _ = load_base(
        settings.model, settings.dtype, prepared.task, settings.seed, dropout=settings.head.dropout
    )
    places = {"target_modules": sorted(ours.model.targeted_module_names), "modules_to_save": own.modules_to_save}
    fields = {name: value for name, value in method.items() if name not in (*places, "exclude_modules")}
    config = peft_config(fields, steps, task_type=own.task_type, **places)
    try:
        with suppress_logging():
            model: Any = get_peft_model(base, config)
    except ValueError as error:
        raise TapertuneError(f"{method['name']}: {str(error).splitlines()[0]}") from error
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    head = {name for name in trained if ".modules_to_save." in name}
    return Built(model=model, tokenizer=tokenizer, head=tuple(head), adapter=tuple(trained - head), base=ours.base)


def _step_flops(prepared: Prepared, model: Any, costs: Costs) -> float:
    """Operations for a token, as torch's counter sees them in one pass forward and back over a row of mean length.

    Attention is computed in products that the counter sees (eager), whatever training used.
    """
    length = max(2, round(costs.tokens / max(costs.rows, 1)))
    device = next(model.parameters()).device
    ids = torch.full((1, length), 1, dtype=torch.long, device=device)
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    before = model.config._attn_implementation
    model.eval()
    try:
        model.base_model.model.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter:
            output = model(**batch)
            output.logits.float().sum().backward()
    finally:
        model.base_model.model.set_attn_implementation(before)
        model.zero_grad()
    return counter.get_total_flops() / length


def _saved_bytes(model: Any) -> int:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Adapter .* invalid shape")  # AdaLoRA's modules may have no rank left
        model.save_pretrained(folder, save_embedding_layers=False)
        return (Path(folder) / "adapter_model.safetensors").stat().st_size
