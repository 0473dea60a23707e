"""One run's settings: read from YAML and dotted overrides, checked whole, refused with one clear line.

``training`` holds fields of transformers' TrainingArguments under their own names; ``method`` the method's settings and
the fields of its PEFT config; ``plan`` changes to the method's plan. All three are checked by those who own them.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from ..errors import TapertuneError, bad_value, unknown
from ..redaction import HIDDEN, hide_secrets
from . import yamlfile
from .arguments import check_training, training_defaults
from .blocks import Block, EarlyStoppingBlock, HeadBlock, MethodBlock, QuantizationBlock, TaskBlock

if TYPE_CHECKING:
    from ..host.config import ChainConfig

_LONGEST_NAME = 200
BASELINES = ("full", "head")  # trained without an adapter: every weight, or the head alone
_NOT_SETTINGS = {
    "plan": ": plan is a block of its own",
    **dict.fromkeys(
        ("task_type", "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "frozen",
         "schema_version", "peft_version"),
        ": the run sets it",
    ),
}  # fmt: skip


class RunSettings(Block):
    """Everything that one run needs. ``load_settings`` is the way to make one."""

    name: str = Field("", description="the run's name; empty: METHOD-TASK")
    model: str = Field(description="name on the hub, folder, or minilm")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the base model's weights")
    quantization: QuantizationBlock | None = Field(None, description="of the base model, in 4 or 8 bits; none: whole")
    task: TaskBlock = Field(description="a task's name, or a block with name and data")
    method: MethodBlock = Field(description="a method's name, or a block with name and settings")
    plan: dict[str, Any] | list[dict[str, Any]] | None = Field(None, description="changes to the method's plan")
    training: dict[str, Any] = Field(default_factory=dict, description="fields of TrainingArguments")
    head: HeadBlock = Field(default_factory=lambda: HeadBlock.model_validate({}))
    early_stopping: EarlyStoppingBlock | None = Field(None, description="end training early; none: train to the end")
    max_skipped_steps: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="steps in a row that may be left out as their gradients are NaN or infinite; auto: 5, and on an "
        "accelerator, where looking at each step waits for it, such a step ends the run",
    )
    output_dir: str = Field("", description="the run's folder; empty: runs/NAME")
    seed: int = Field(
        42, ge=0, lt=1 << 63, description="of the head's start, the adapter's start, data order and dropout"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        names = {key: {"name": data[key]} for key in ("task", "method") if isinstance(data.get(key), str)}
        return {**data, **names}

    @field_validator("head", "training", mode="before")
    @classmethod
    def _empty_block(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _names(self) -> RunSettings:
        self.name = self.name or f"{self.method.name}-{self.task.name}"
        self.output_dir = self.output_dir or f"runs/{self.name}"
        return self

    def resolved(self) -> dict[str, Any]:
        """The settings as plain values, as ``run.json`` keeps them: without secrets."""
        return hide_secrets(self.model_dump())


def load_settings(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> RunSettings:
    """Settings from a YAML file and dotted overrides (``{"method.r": 4}``), checked.

    Raises:
        TapertuneError: the file cannot be read, a key is unknown (the nearest is named), or a value is wrong.
    """
    raw = {} if path is None else yamlfile.read(Path(path))
    return check_settings(yamlfile.apply_overrides(raw, dict(overrides or {})))


def check_settings(raw: Mapping[str, Any]) -> RunSettings:
    """Settings from nested values, checked; defaults are filled in.

    Raises:
        TapertuneError: a key is unknown, missing or has a wrong value.
    """
    try:
        settings = RunSettings.model_validate(dict(raw))
    except ValidationError as error:
        raise _translate(error) from error
    check_name(settings.name, settings.output_dir)
    settings.task.max_length = settings.task.declaration().max_length
    _check_method(settings)
    _check_quantization(settings)
    # a record's settings name its secrets without their values: these come from the environment or are given anew
    given = {name: value for name, value in settings.training.items() if value != HIDDEN}
    settings.training = {**training_defaults(), **check_training(given)}
    return settings


def check_name(name: str, output_dir: str) -> None:
    """Raises TapertuneError for a name of a run that is not one line, or a folder that no system has."""
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise bad_value("name", name, f"one line of at most {_LONGEST_NAME} printable characters")
    if "\0" in output_dir or not output_dir.strip():
        raise bad_value("output_dir", output_dir, "the path of a folder")


def check_task(raw: Mapping[str, Any]) -> TaskBlock:
    """A task block alone, checked.

    Raises:
        TapertuneError: as ``check_settings``.
    """
    return check_settings({"model": "none", "method": "head", "task": dict(raw)}).task


def _check_method(settings: RunSettings) -> None:
    from ..methods import METHODS

    name, fields = settings.method.name, settings.method.fields
    if name in BASELINES:
        if fields:
            raise TapertuneError(f"method.{next(iter(fields))}: {name} has no settings")
        if settings.plan is not None:
            raise TapertuneError(f"plan: {name} has no adapter, so nothing to plan")
        return
    if name not in METHODS:
        raise unknown("method", name, [*METHODS, *BASELINES])
    for key in fields:
        if key in _NOT_SETTINGS:
            raise TapertuneError(f"method.{key} is no setting of a run{_NOT_SETTINGS[key]}")
    adapter_config(settings)


def _check_quantization(settings: RunSettings) -> None:
    block, method = settings.quantization, settings.method.name
    if block is None:
        return
    if method in BASELINES:
        raise TapertuneError(f"quantization: {method} has no adapter, and a quantised model trains with one only")
    for name, default in (("type", "nf4"), ("double", False), ("compute_dtype", None)):
        if block.bits == 8 and getattr(block, name) != default:
            raise TapertuneError(f"quantization.{name} is for 4 bits; quantization.bits is 8")


def adapter_config(settings: RunSettings, modules_to_save: list[str] | None = None) -> ChainConfig:
    """The PEFT config of a run's adapter.

    Args:
        settings: the run's.
        modules_to_save: modules that train whole, unless the settings name some.

    Raises:
        TapertuneError: a field of the method or of the plan is unknown or has a wrong value.
    """
    import tapertune

    from ..tasks.kinds import get_kind

    fields = {"modules_to_save": modules_to_save, **settings.method.fields}
    if settings.plan is not None:
        fields["plan"] = settings.plan
    task_type = get_kind(settings.task.declaration().kind).task_type
    return tapertune.make_config(settings.method.name, task_type=task_type, **fields)


def _translate(error: ValidationError) -> TapertuneError:
    errors = error.errors()
    # a misspelt name is also a missing one
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    # of a field with several types, pydantic names the one that it tried
    path = ".".join(str(part) for part in first["loc"] if not re.search(r"[\[(]", str(part)))
    if first["type"] == "extra_forbidden":
        return unknown("setting", path, _known(first["loc"][:-1]))
    if first["type"] == "missing":
        return TapertuneError(f"setting {path} is missing: {_description(first['loc'])}")
    message = first["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    plain = {"string": "text", "integer": "a whole number", "number": "a number", "dictionary": "a block of settings"}
    block = first["type"].startswith("model_")
    return bad_value(path, first["input"], "a block of settings" if block else plain.get(message, message))


def _known(blocks: tuple[int | str, ...]) -> list[str]:
    prefix = "".join(f"{block}." for block in blocks)
    return [prefix + name for name in _model_at(blocks).model_fields]


def _description(loc: tuple[int | str, ...]) -> str:
    field = _model_at(loc[:-1]).model_fields[str(loc[-1])]
    return field.description or ""


def _model_at(blocks: tuple[int | str, ...]) -> type[BaseModel]:
    model: type[BaseModel] = RunSettings
    for block in blocks:
        hint = model.model_fields[str(block)].annotation
        parts = (part for part in (hint, *typing.get_args(hint)) if isinstance(part, type))
        inner = next((part for part in parts if issubclass(part, BaseModel)), None)
        assert inner is not None, "only blocks have unknown keys"
        model = inner
    return model
