"""Whether a Trainer that goes on from a checkpoint runs what was stopped: Trainer itself takes what it is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn
from transformers import TrainingArguments

from ..errors import TapertuneError
from .digests import config_facts, data_digest, weights_digest

_FIELDS = (
    "learning_rate", "weight_decay", "lr_scheduler_type",
    "warmup_steps", "optim", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "seed", "data_seed",
    "label_smoothing_factor", "fp16", "bf16", "lr_scheduler_kwargs", "optim_args", "neftune_noise_alpha",
    "train_sampling_strategy", "dataloader_drop_last",
)  # fmt: skip
SPLIT = ("per_device_train_batch_size", "gradient_accumulation_steps")
_SPLIT = (*SPLIT, "processes")
CONTENTS = "contents of "
"""How names of digests begin: their values say nothing to a reader."""


def facts(args: TrainingArguments, loader: Any, model: nn.Module, adapter: Collection[int]) -> dict[str, Any]:
    """What has to be equal in the two parts of a run, as JSON values.

    Args:
        args: Trainer's.
        loader: of the training rows.
        model: with the adapter.
        adapter: identities of the adapter's parameters.
    """
    values = {name: getattr(args, name, None) for name in _FIELDS}
    plain = {key: v if v is None or type(v) in (int, float, str, bool) else str(v) for key, v in values.items()}
    return {
        **plain,
        **split_facts(args),
        "rows of training": _rows(loader),
        f"{CONTENTS}the training rows": data_digest(getattr(loader, "dataset", None)),
        **model_facts(model, adapter),
    }


def split_facts(args: TrainingArguments) -> dict[str, Any]:
    """Over what a step's batch is split."""
    values = {name: getattr(args, name) for name in SPLIT}
    if args.auto_find_batch_size:
        del values["per_device_train_batch_size"]
    return {**values, "processes": args.world_size}


def model_facts(model: nn.Module, adapter: Collection[int]) -> dict[str, Any]:
    """What is known of the part of a model that does not train."""
    return {**config_facts(model), f"{CONTENTS}the base model's weights": weights_digest(model, adapter)}


def check_facts(
    saved: Mapping[str, Any], mine: Mapping[str, Any], where: str = "go on from the checkpoint"
) -> str | None:
    """Compares two of them. Batches of the same size may be split otherwise over processes and passes.

    Args:
        saved: of the stopped run; what is not known of it, or of this one, counts as equal.
        mine: of this one.
        where: what cannot be done where they differ.

    Returns:
        A line that says how batches are split otherwise, if they are.

    Raises:
        TapertuneError: something differs; it is named.
    """
    changed = [key for key in mine if saved.get(key, mine[key]) != mine[key] and _known(key, saved, mine)]
    split = [key for key in changed if key in _SPLIT]
    if split and len(split) == len(changed) and _batch(saved) == _batch(mine) is not None:
        what = ", ".join(f"{key} {saved[key]}, now {mine[key]}" for key in split)
        return f"the stopped run had {what}: batches are the same, dropout draws otherwise"
    for key in changed:
        if key.startswith(CONTENTS):
            raise TapertuneError(f"cannot {where}: {key.removeprefix(CONTENTS)} are others than when the run began")
        raise TapertuneError(
            f"cannot {where}: the stopped run had {key} {saved[key]!r}, this one has {mine[key]!r}; they must be equal"
        )
    return None


def _known(key: str, saved: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Whether both runs know it: settings may be None; of contents and rows, that means unknown."""
    return key in _FIELDS or (saved[key] is not None and mine[key] is not None)


def _batch(values: Mapping[str, Any]) -> int | None:
    sizes = [values.get(key) for key in _SPLIT]
    return None if None in sizes else sizes[0] * sizes[1] * sizes[2]  # type: ignore[operator]


def _rows(loader: Any) -> int | None:
    try:
        return len(loader.dataset)
    except (TypeError, AttributeError, NotImplementedError):
        return None
