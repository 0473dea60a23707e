"""The ``training`` block: fields of transformers' TrainingArguments under their own names."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import typing
from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import TapertuneError, bad_value
from ..redaction import HIDDEN, is_secret
from ..synonyms import nearest, nearest_setting

AUTO = "auto"
"""The learning rate that the method's rule gives."""
_LEAST = {
    "weight_decay": 0, "warmup_steps": 0, "max_grad_norm": 0, "max_steps": -1,
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1,
    "logging_steps": 0, "eval_steps": 0, "save_steps": 0, "eval_delay": 0, "dataloader_num_workers": 0,
    "save_total_limit": 1, "adam_beta1": 0, "adam_beta2": 0, "adam_epsilon": 0, "label_smoothing_factor": 0,
    "eval_accumulation_steps": 1, "data_seed": 0,
}  # fmt: skip
_BELOW = {"adam_beta1": 1, "adam_beta2": 1, "label_smoothing_factor": 1}
_ENDLESS = ("max_grad_norm",)  # infinite: no gradient is cut
_LARGEST = 1 << 63
_OURS = {
    "output_dir": "output_dir",
    "seed": "seed",
    "disable_tqdm": "no setting: the command shows its own progress",
    "resume_from_checkpoint": "the option --resume",
    "save_only_model": "no setting: a run can be resumed",
}


def training_defaults() -> dict[str, Any]:
    """What is used where a run file says nothing."""
    return {
        "learning_rate": AUTO,
        "warmup_steps": 0.06,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 64,
        "num_train_epochs": 3,
        "logging_steps": 10,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "optim": "adamw_torch_fused",  # an adapter is many small tensors: several times the speed of one after another
        "train_sampling_strategy": "group_by_length",  # rows of like length share a batch, so that little is padding
    }


def training_names() -> list[str]:
    """The fields of TrainingArguments that a run may set."""
    from .older_transformers import TrainingArguments

    return [field.name for field in dataclasses.fields(TrainingArguments) if field.init and field.name not in _OURS]


def check_training(training: dict[str, Any], settings: Callable[[], list[str]] | None = None) -> dict[str, Any]:
    """The block again, checked.

    Args:
        training: the block.
        settings: gives all that a run has, by dotted names, for the hint at an unknown one; None: those of the block.

    Raises:
        TapertuneError: a name is no field of TrainingArguments, or its value is of another type or too small.
    """
    checks = _checks()
    names = training_names()
    for key, value in training.items():
        if key in _OURS:
            raise TapertuneError(f"training.{key} is set elsewhere ({_OURS[key]})")
        if key not in names:
            known = [f"training.{name}" for name in names] if settings is None else settings()
            guess = nearest_setting(f"training.{key}", known)
            hint = f"did you mean {guess!r}? " if guess else ""
            raise TapertuneError(
                f"unknown setting {f'training.{key}'!r}: {hint}Allowed: the fields of transformers.TrainingArguments"
                f" but {', '.join(_OURS)}"
            )
        if key == "learning_rate":
            _check_learning_rate(value)
            continue
        hint, adapter = checks[key]
        if key in _ENDLESS and value in (math.inf, sys.float_info.max):
            continue
        try:
            adapter.validate_python(value, strict=True)
        except (ValidationError, RecursionError) as error:
            shown = HIDDEN if is_secret(key) else value
            raise bad_value(f"training.{key}", shown, _wanted(hint)) from error
        _check_range(key, value)
    if training.get("max_steps") == 0:
        raise bad_value("training.max_steps", 0, "1 or more, or -1 for whole epochs")
    if training.get("num_train_epochs", 1) <= 0:
        raise bad_value("training.num_train_epochs", training["num_train_epochs"], "more than 0")
    return training


# fields of which YAML cannot write what their types ask for, strictly read
_UNLIKE_JSON: dict[str, dict[str, Any]] = {
    "parallelism_config": {"type": "null"},
    "debug": {"anyOf": [{"type": "string"}, {"type": "array", "maxItems": 0}]},
}


def training_schema() -> dict[str, Any]:
    """What ``check_training`` accepts, as JSON schema."""
    from transformers import TrainingArguments

    from ..methods.rates import MOST

    helps = {field.name: field.metadata.get("help") for field in dataclasses.fields(TrainingArguments)}
    fields: dict[str, dict[str, Any]] = {}
    for name in training_names():
        made = dict(_UNLIKE_JSON.get(name) or _checks()[name][1].json_schema())
        for known in made.pop("$defs", {}).values():
            made["anyOf"] = [{"enum": known["enum"]} if "$ref" in part else part for part in made["anyOf"]]
        if name in _LEAST:
            made["minimum"] = _LEAST[name]
        if name in _BELOW:
            made["exclusiveMaximum"] = _BELOW[name]
        if helps[name]:
            made["description"] = " ".join(str(helps[name]).split())
        fields[name] = made
    fields["max_steps"]["not"] = {"const": 0}
    fields["num_train_epochs"]["exclusiveMinimum"] = 0
    rate = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": MOST}
    fields["learning_rate"] = {"anyOf": [{"const": AUTO}, rate], "description": "auto: by the method's rule"}
    return {"type": "object", "additionalProperties": False, "properties": fields}


def in_json(name: str, value: Any) -> Any:
    """A field's value as ``run.json`` can hold it: the largest number for one that may be infinite, which JSON is not.

    >>> in_json("max_grad_norm", math.inf) < math.inf
    True
    """
    return sys.float_info.max if name in _ENDLESS and value == math.inf else value


@functools.cache
def _checks() -> dict[str, tuple[Any, TypeAdapter[Any]]]:
    """Each field's type and what checks it."""
    from .older_transformers import TrainingArguments

    hints = typing.get_type_hints(TrainingArguments)
    finite = ConfigDict(allow_inf_nan=False)
    fields = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
    return {name: (hints[name], TypeAdapter(hints[name], config=finite)) for name in fields}


def _check_range(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not -_LARGEST < value < _LARGEST:
        raise bad_value(f"training.{key}", value, "of fewer than 64 bits")
    low, high = _LEAST.get(key), _BELOW.get(key)
    if (low is not None and value < low) or (high is not None and value >= high):
        raise bad_value(f"training.{key}", value, f"{low} or more" if high is None else f"from {low} to below {high}")


def _check_learning_rate(value: Any) -> None:
    allowed = f"a number above 0, or {AUTO}"
    if isinstance(value, str) and value != AUTO and nearest(value, [AUTO]):
        raise bad_value("training.learning_rate", value, f"{allowed}: did you mean {AUTO!r}?")
    if value == AUTO:
        return
    from ..methods.rates import check_rate

    check_rate("training.learning_rate", value, f", or {AUTO}")


def _wanted(hint: Any) -> str:
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    parts = typing.get_args(hint) or (hint,)
    named = dict.fromkeys(kinds.get(part) or str(getattr(part, "__name__", part)) for part in parts)
    return " or ".join(named)
