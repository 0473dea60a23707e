"""The model of a run that is planned: any config, on the meta device, whole or cut to a few layers."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TapertuneError, unknown
from ..host import ChainLayer
from ..runfile.settings import BASELINES, RunSettings
from ..tasks.kinds import get_kind
from ..tasks.kinds.generated import loss_rows
from .shapes import CONFIGS, base_of, head_modules, model_config, with_adapter

DEPTHS = ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
_OF_LAYERS = ("layers_to_transform", "train_layers", "layers_pattern", "ranks", "rank_pattern", "frozen")


def config_of(settings: RunSettings) -> Any:
    """The config of a run's model for its task: of the table, of a folder, or of the hub.

    Raises:
        TapertuneError: there is none; the nearest name of the table is suggested.
    """
    from transformers import AutoConfig

    name = settings.model
    config = model_config(name)
    if config is None:
        if not Path(name).is_dir() and "/" not in name:
            raise unknown("model", name, CONFIGS)
        try:
            config = AutoConfig.from_pretrained(os.fspath(name))
        except (OSError, ValueError, KeyError) as error:
            if Path(name).is_dir():
                raise TapertuneError(
                    f"cannot read the config of model {name!r}: {str(error).splitlines()[0]}"
                ) from error
            raise unknown("model", name, CONFIGS) from error
    task = settings.task.declaration()
    for key, value in get_kind(task.kind).config(task).items():
        setattr(config, key, value)
    return config


def depth_of(config: Any) -> int | None:
    """How many layers a model has; None where its stacks differ in depth, or nothing says it."""
    depths = {getattr(config, name) for name in DEPTHS if isinstance(getattr(config, name, None), int)}
    return depths.pop() if len(depths) == 1 else None


def cut(config: Any, depth: int) -> Any:
    """The same model with so many layers."""
    short = copy.deepcopy(config)
    for name in DEPTHS:
        if isinstance(getattr(short, name, None), int):
            setattr(short, name, depth)
    if isinstance(getattr(short, "layer_types", None), list | tuple):
        short.layer_types = list(short.layer_types)[:depth]
    return short


def is_even(settings: RunSettings) -> bool:
    """Whether the adapter is alike in all layers, so that a few tell of all."""
    fields = settings.method.fields
    targets = fields.get("target_modules") or ()
    names = [targets] if isinstance(targets, str) else targets
    return not any(fields.get(name) for name in _OF_LAYERS) and not any(c.isdigit() for name in names for c in name)


def trained_model(settings: RunSettings, config: Any, kind: str, *, half: bool = False) -> Any:
    """A run's model on the meta device, with its adapter, that training which trains.

    Args:
        settings: the run's.
        config: the model's, which may be cut.
        kind: of the task.
        half: hold weights and activations in bfloat16, as autocast holds the activations.
    """
    dtype = torch.bfloat16 if half else getattr(torch, settings.dtype)
    base, method = base_of(config, kind, dtype), settings.method.name
    head = head_modules(base, kind)
    if settings.training.get("gradient_checkpointing"):
        base.gradient_checkpointing_enable({"use_reentrant": False})
        if method not in ("full", "head"):
            base.enable_input_require_grads()
    if method in BASELINES:
        if method == "head":
            base.requires_grad_(False)
            for module in head:
                base.get_submodule(module).requires_grad_(True)
        return base
    model, _ = with_adapter(settings, base, head)
    if settings.quantization is not None:
        for module in model.modules():
            if isinstance(module, ChainLayer):
                module.get_base_layer().register_forward_hook(_quantised)  # as a layer that is not plain is computed
    return model


def _quantised(module: nn.Module, inputs: Any, output: Tensor) -> None:
    """Nothing: a layer with a hook is computed apart from its adapter, as one with packed weights is."""


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What a run reads.

    Attributes:
        rows: of its training file; None where only the file can tell.
        mean: tokens of a row, padding included, on average.
        longest: tokens of its longest row.
        target: tokens of the answers of an encoder-decoder, at most.
        evaluated: rows of each evaluation.
    """

    rows: int | None
    mean: float
    longest: int
    target: int = 0
    evaluated: int = 0


def batch(kind: str, config: Any, rows: int, tokens: int, target: int = 0, *, labels: bool = True) -> dict[str, Tensor]:
    """A batch on the meta device, as a model of that kind reads it; ``target``: tokens of a decoder's answers."""
    with torch.device("meta"):
        ids = torch.zeros(rows, tokens, dtype=torch.long)
        each = torch.zeros(rows, dtype=torch.long)
        answers: Mapping[str, Tensor] = {
            "causal_lm": {"labels": ids},
            "token_classification": {"labels": ids},
            "question_answering": {"start_positions": each, "end_positions": each},
            "seq2seq": {"labels": torch.zeros(rows, max(target, 1), dtype=torch.long)},
            "regression": {"labels": each.float()},
        }.get(kind, {"labels": each})
    if kind == "seq2seq" or labels:
        return {"input_ids": ids, **answers}
    return {"input_ids": ids}


def evaluated_rows(settings: RunSettings, kind: str, config: Any, tokens: int) -> int:
    """Rows of an evaluation's pass."""
    size = settings.training["per_device_eval_batch_size"]
    return loss_rows(size, tokens, config.vocab_size) if kind in ("causal_lm", "seq2seq") else size
