"""One run's settings: read from YAML and dotted overrides, checked whole, refused with one clear line.

``training`` holds fields of transformers' TrainingArguments under their own names; ``method`` the method's settings and
the fields of its PEFT config; ``plan`` changes to the method's plan. All three are checked by those who own them.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from ..errors import TapertuneError, bad_value, unknown
from ..redaction import HIDDEN, hide_secrets
from . import yamlfile
from .arguments import check_training, in_json, training_defaults
from .blocks import Block, CacheBlock, EarlyStoppingBlock, HeadBlock, MethodBlock, QuantizationBlock, TaskBlock
from .known import BASELINES as BASELINES  # beside what checks them
from .known import known_settings, method_fields

if TYPE_CHECKING:
    from ..host.config import ChainConfig

LONGEST_NAME = 200
_NOT_SETTINGS = {
    "plan": ": plan is a block of its own",
    **dict.fromkeys(
        ("task_type", "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "frozen",
         "schema_version", "peft_version", "ranks", "adapted_modules", "shared_sizes"),
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
    cache: CacheBlock | None = Field(
        None, description="keep what enters the lowest layer that trains; none: nothing is kept"
    )
    max_skipped_steps: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="steps in a row that may be left out as their gradients are NaN or infinite; auto: 5, and on an "
        "accelerator, where looking at each step waits for it, such a step ends the run",
    )
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="that torch computes with on a processor; auto: what is set already (OMP_NUM_THREADS), else the "
        "command tries 1, half and all of them on a batch and takes the quickest",
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
        names: dict[str, Any] = {
            key: {"name": data[key]} for key in ("task", "method") if isinstance(data.get(key), str)
        }
        if isinstance(data.get("cache"), bool):
            names["cache"] = {} if data["cache"] else None
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
    return check_settings(with_overrides(raw, overrides or {}))


def with_overrides(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested settings with dotted ones set, the method's fields by the method's own names in both.

    Raises:
        TapertuneError: a name leads through something that is not a block, or a field is given by two names.

    >>> with_overrides({"method": {"name": "adalora", "init_r": 12}}, {"method.r": 4})
    {'method': {'name': 'adalora', 'init_r': 4}}
    """
    from ..methods import METHODS

    block = raw.get("method")
    fields = dict(block) if isinstance(block, Mapping) else {"name": block}
    given = overrides.get("method.name", overrides.get("method", fields.get("name")))
    row = METHODS.get(given) if isinstance(given, str) else None
    if row is None:
        return yamlfile.apply_overrides(dict(raw), dict(overrides))
    start = "method."
    inside = {name.removeprefix(start): value for name, value in overrides.items() if name.startswith(start)}
    changes = {name: value for name, value in overrides.items() if not name.startswith(start)}
    changes |= {f"{start}{name}": value for name, value in row.own_names(inside).items()}
    named = {**raw, "method": row.own_names(fields)} if isinstance(block, Mapping) else dict(raw)
    return yamlfile.apply_overrides(named, changes)


def check_settings(raw: Mapping[str, Any]) -> RunSettings:
    """Settings from nested values, checked; defaults are filled in.

    Raises:
        TapertuneError: a key is unknown, missing or has a wrong value.
    """
    try:
        settings = RunSettings.model_validate(dict(raw))
    except ValidationError as error:
        raise _translate(error, raw) from error
    check_name(settings.name, settings.output_dir)
    settings.task.max_length = settings.task.declaration().max_length
    _check_method(settings, raw)
    _check_quantization(settings)
    if settings.cache is not None:
        settings.cache.settings()
        if settings.method.name in BASELINES:
            raise TapertuneError(f"cache: {settings.method.name} has no adapter that freezes layer by layer")
    if settings.head.learning_rate is not None:
        from ..methods.rates import check_rate

        check_rate("head.learning_rate", settings.head.learning_rate)
    # a record's settings name its secrets without their values: these come from the environment or are given anew
    given = {name: value for name, value in settings.training.items() if value != HIDDEN}
    checked = check_training(given, lambda: _all_settings(raw))
    settings.training = {**training_defaults(), **{name: in_json(name, value) for name, value in checked.items()}}
    return settings


def check_name(name: str, output_dir: str) -> None:
    """Raises TapertuneError for a name of a run that is not one line, or a folder that no system has."""
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise bad_value("name", name, f"one line of at most {LONGEST_NAME} printable characters")
    if "\0" in output_dir or not output_dir.strip():
        raise bad_value("output_dir", output_dir, "the path of a folder")


def check_task(raw: Mapping[str, Any]) -> TaskBlock:
    """A task block alone, checked.

    Raises:
        TapertuneError: as ``check_settings``.
    """
    return check_settings({"model": "none", "method": "head", "task": dict(raw)}).task


def _all_settings(raw: Mapping[str, Any]) -> list[str]:
    return known_settings(list(RunSettings.model_fields), raw)


def _check_method(settings: RunSettings, raw: Mapping[str, Any]) -> None:
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
    allowed = method_fields(name)[1:]
    fields = METHODS[name].own_names(fields)
    for key in fields:
        if key in _NOT_SETTINGS:
            raise TapertuneError(f"method.{key} is no setting of a run{_NOT_SETTINGS[key]}")
        if key not in allowed:
            raise _unknown_field(name, key, allowed, raw)
    settings.method = MethodBlock.model_validate({"name": name, **fields})
    adapter_config(settings)


def _unknown_field(method: str, key: str, allowed: list[str], raw: Mapping[str, Any]) -> TapertuneError:
    """The error for a field that the method does not have; the hint may be a setting of another block."""
    settings = [name.removeprefix("method.") for name in _all_settings(raw)]
    return unknown(f"field of {method}", key, allowed, settings=[*allowed, *settings])


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


def _translate(error: ValidationError, raw: Mapping[str, Any]) -> TapertuneError:
    errors = error.errors()
    # a misspelt name is also a missing one
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    place = _place(first["loc"])
    path = ".".join(map(str, place))
    if first["type"] == "extra_forbidden":
        return unknown("setting", path, _known(place[:-1]), settings=_all_settings(raw))
    if first["type"] == "missing":
        return TapertuneError(f"setting {path} is missing: {_description(place)}")
    # a value of several kinds has an error for each of them
    wanted = dict.fromkeys(_wanted(each) for each in errors if _place(each["loc"]) == place)
    return bad_value(path, first["input"], " or ".join(wanted))


def _wanted(error: Any) -> str:
    if error["type"].startswith("model_"):
        return "a block of settings"
    message = error["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    plain = {"string": "text", "integer": "a whole number", "number": "a number", "dictionary": "a block of settings"}
    return plain.get(message) or message


def _place(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A place in a run file, without the kinds of value that pydantic names behind it."""
    model: type[BaseModel] | None = RunSettings
    for depth, part in enumerate(loc):
        if model is None or (str(part) not in model.model_fields and depth < len(loc) - 1):
            return loc[:depth]
        model = _block_of(model, part)
    return loc


def _known(blocks: tuple[int | str, ...]) -> list[str]:
    prefix = "".join(f"{block}." for block in blocks)
    return [prefix + name for name in _model_at(blocks).model_fields]


def _description(loc: tuple[int | str, ...]) -> str:
    field = _model_at(loc[:-1]).model_fields[str(loc[-1])]
    return field.description or ""


def _model_at(blocks: tuple[int | str, ...]) -> type[BaseModel]:
    model: type[BaseModel] = RunSettings
    for block in blocks:
        inner = _block_of(model, block)
        assert inner is not None, "only blocks have unknown keys"
        model = inner
    return model


def _block_of(model: type[BaseModel], name: int | str) -> type[BaseModel] | None:
    """The block that a field holds, if it holds one."""
    field = model.model_fields.get(str(name))
    hint = None if field is None else field.annotation
    parts = (part for part in (hint, *typing.get_args(hint)) if isinstance(part, type))
    return next((part for part in parts if issubclass(part, BaseModel)), None)
