"""Whether a Trainer that goes on from a checkpoint runs what was stopped: Trainer itself takes what it is given."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from ..adapt.sharding import is_sharded
from ..errors import TapertuneError

_FIELDS = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "weight_decay", "lr_scheduler_type",
    "warmup_steps", "optim", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "seed", "data_seed",
    "label_smoothing_factor", "fp16", "bf16",
)  # fmt: skip
_SPLIT = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")
_SAMPLE = 32
_log = logging.getLogger("tapertune")


def facts(args: TrainingArguments, loader: Any, model: nn.Module, adapter: Collection[int]) -> dict[str, Any]:
    """What has to be equal in the two parts of a run, as JSON values.

    Args:
        args: Trainer's.
        loader: of the training rows.
        model: with the adapter.
        adapter: identities of the adapter's parameters.
    """
    values = {name: getattr(args, name, None) for name in _FIELDS}
    if args.auto_find_batch_size:
        del values["per_device_train_batch_size"]
    plain = {key: v if v is None or type(v) in (int, float, str, bool) else str(v) for key, v in values.items()}
    return {
        **plain, "processes": args.world_size, "rows of training": _rows(loader),
        "base model": base_digest(model, adapter),
    }  # fmt: skip


def check_facts(saved: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Compares two of them. Batches of the same size may be split otherwise over processes and passes: a line of the
    log says so.

    Raises:
        TapertuneError: one differs; it is named.
    """
    changed = [key for key in mine if key in saved and saved[key] != mine[key]]
    split = [key for key in changed if key in _SPLIT]
    if split and len(split) == len(changed) and _batch(saved) == _batch(mine) is not None:
        what = ", ".join(f"{key} {saved[key]}, now {mine[key]}" for key in split)
        _log.warning("the stopped run had %s: batches are the same, dropout draws otherwise", what)
        return
    for key in changed:
        if key == "base model":
            raise TapertuneError("cannot go on from the checkpoint: the base model's weights are others than then")
        raise TapertuneError(
            f"cannot go on from the checkpoint: the stopped run had {key} {saved[key]!r}, this one has {mine[key]!r}; "
            "they must be equal"
        )


def base_digest(model: nn.Module, adapter: Collection[int]) -> str | None:
    """A digest of samples of the weights that do not train; None where they are split over processes."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or id(parameter) in adapter or "original_module" in name:
            continue
        if is_sharded(parameter) or parameter.device.type == "meta":
            return None
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLE)][:_SAMPLE].to("cpu", torch.float64)
        digest.update(f"{tuple(parameter.shape)} {parameter.dtype} ".encode() + sample.numpy().tobytes())
    return digest.hexdigest()


def _batch(values: Mapping[str, Any]) -> int | None:
    sizes = [values.get(key) for key in _SPLIT]
    return None if None in sizes else sizes[0] * sizes[1] * sizes[2]  # type: ignore[operator]


def _rows(loader: Any) -> int | None:
    try:
        return len(loader.dataset)
    except (TypeError, AttributeError, NotImplementedError):
        return None
