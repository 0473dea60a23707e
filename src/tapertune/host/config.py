"""One PEFT config for every method: PEFT's own fields, the method's settings, the plan and what is frozen."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from peft.config import PeftConfig
from peft.utils.peft_types import PeftType

from ..adapt.plan import Plan, make_plans, merge
from ..errors import TapertuneError, UnknownField, bad_value, unknown
from ..files import usual_permissions
from ..methods import METHODS, Method, get_method
from ..methods.settings import flag, positive

SCHEMA_VERSION = 1


@dataclass
class ChainConfig(PeftConfig):
    """What the configs of all methods share.

    Raises:
        TapertuneError: a value out of range, an unknown name (the nearest is suggested), or a newer ``schema_version``.
    """

    method: ClassVar[str]
    # PEFT's helpers for one initialisation of LoRA ask for these, and refuse what is not theirs
    init_lora_weights: ClassVar[None] = None
    lora_ga_config: ClassVar[None] = None

    target_modules: list[str] | set[str] | str | None = field(
        default=None,
        metadata={
            "help": "modules to adapt: name endings, one regular expression, 'all-linear', or None for the"
            " architecture's attention and feed-forward layers"
        },
    )
    target_parameters: list[str] | None = field(
        default=None,
        metadata={
            "help": "parameters to adapt that hold matrices themselves, such as stacked experts: their names or paths'"
            " endings; None for the experts of a known architecture where target_modules is None or 'all-linear'"
        },
    )
    exclude_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "modules to leave alone: name endings or one regular expression"}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "further modules to train whole and save, such as a classifier"}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "indices of the layers to adapt; None for all"}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "name of the list of layers, if layers_to_transform is given and it is unusual"}
    )
    init_weights: bool = field(
        default=True, metadata={"help": "initialise as the method says; False starts from a random update, for tests"}
    )
    plan: dict[str, Any] | list[dict[str, Any]] | None = field(
        default=None, metadata={"help": "changes to the method's adaptation plan: importance, schedule, policy"}
    )
    factor_rates: dict[str, float] | None = field(
        default=None,
        metadata={
            "help": "learning rates of factors as multiples of the run's, by the factor's name, such as {'B': 16}"
            " (LoRA+); None for the method's own"
        },
    )
    frozen: dict[str, list[str]] = field(
        default_factory=dict, metadata={"help": "factors frozen by training, by module; written by the controller"}
    )
    ranks: dict[str, int] = field(
        default_factory=dict, metadata={"help": "ranks after pruning, by module; written when the adapter is saved"}
    )
    adapted_modules: list[str] = field(
        default_factory=list,
        metadata={"help": "paths of all modules, where frozen or ranks name some; written when the adapter is saved"},
    )
    shared_sizes: dict[str, int] = field(
        default_factory=dict,
        metadata={"help": "widths of projections shared by all modules; written when the adapter is made"},
    )
    schema_version: int = field(default=SCHEMA_VERSION, metadata={"help": "version of these fields"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType[self.row.peft_name.upper()]
        if self.schema_version > SCHEMA_VERSION:
            raise TapertuneError(
                f"adapter config of schema {self.schema_version}; this tapertune reads up to {SCHEMA_VERSION}"
            )
        check_module_names(self)
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if isinstance(value, list | tuple):
                setattr(self, name, set(value))
            elif value is not None and not isinstance(value, str | set):
                raise bad_value(name, value, "a list of names, a regular expression, or None")
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            raise bad_value("layers_to_transform", self.layers_to_transform, "None when target_modules is one string")
        if self.layers_pattern and self.layers_to_transform is None:
            raise bad_value("layers_pattern", self.layers_pattern, "None unless layers_to_transform is given")
        check_factor_rates(self.factor_rates, self.row.chain(self.settings()).names)
        self.resolved_plans()
        # projections that the adapter's modules share, by factor; made when the first module is adapted, not saved here
        self.projections: dict[str, Any] = {}

    @property
    def row(self) -> Method:
        """The method's row of ``METHODS``."""
        return METHODS[self.method]

    def settings(self) -> Any:
        """The method's settings, checked."""
        kind = self.row.settings
        return kind(**{f.name: getattr(self, f.name) for f in dataclasses.fields(kind)})

    def rates(self) -> dict[str, float]:
        """The learning rate of each factor as a multiple of the run's, by the factor's name."""
        declared = {**self.row.rates.factors, **(self.factor_rates or {})}
        return {name: float(declared.get(name, 1.0)) for name in self.row.chain(self.settings()).names}

    def resolved_plans(self) -> list[Plan]:
        """The method's default plan with ``plan`` laid over it; empty for a method that adapts nothing. Resolved once,
        and anew where settings or ``plan`` have changed."""
        settings = self.settings()
        origin = settings, repr(self.plan)
        known = vars(self).get("_plans")
        if known is None or known[0] != origin:
            known = self._plans = origin, make_plans(merge(self.row.plan(settings), self.plan))
        return list(known[1])

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Saves the config, as PEFT does after the weights, and lets all of the folder's files be read by whoever may
        read new ones there: the weights are written for their owner alone."""
        super().save_pretrained(save_directory, **kwargs)
        usual_permissions(Path(save_directory))

    def to_dict(self) -> dict[str, Any]:
        # sets are written sorted, so that the same config gives the same file
        return {k: sorted(v) if isinstance(v, set) else v for k, v in super().to_dict().items()}


_GIVEN = ("task_type", "base_model_name_or_path", "revision", "inference_mode", "plan")
_OF_A_RUN = (
    "target_modules",
    "target_parameters",
    "exclude_modules",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "init_weights",
    "factor_rates",
)


def run_fields(method: str) -> list[str]:
    """The fields of a method's config that a run file may set: the method's settings, and what is adapted how."""
    own = [f.name for f in dataclasses.fields(get_method(method).settings)]
    return [*own, *_OF_A_RUN]


def check_module_names(config: ChainConfig) -> None:
    """Raises TapertuneError where what names modules or layers holds something else."""
    for name in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern"):
        value = getattr(config, name)
        if isinstance(value, list | tuple | set) and not all(isinstance(part, str) for part in value):
            raise bad_value(name, value, "a list of names")
    for name in ("modules_to_save", "adapted_modules"):
        value = getattr(config, name)
        if value is not None and not isinstance(value, list | tuple | set):
            raise bad_value(name, value, "a list of names")
    named = config.target_parameters
    if named is not None and not (isinstance(named, list | tuple | set) and all(isinstance(n, str) for n in named)):
        raise bad_value("target_parameters", named, "a list of parameters' names")
    layers = config.layers_to_transform
    for layer in layers if isinstance(layers, list | tuple) else [] if layers is None else [layers]:
        if isinstance(layer, bool) or not isinstance(layer, int):
            raise bad_value("layers_to_transform", layers, "a layer's number, or a list of them")
    flag("init_weights", config.init_weights)
    for name in ("frozen", "ranks", "shared_sizes"):
        if not isinstance(getattr(config, name), Mapping):
            raise bad_value(name, getattr(config, name), "a mapping")


def check_factor_rates(given: Any, names: tuple[str, ...]) -> None:
    """Raises TapertuneError unless these are multiples of a learning rate by the names of a chain's factors."""
    if given is None:
        return
    if not isinstance(given, Mapping):
        raise bad_value("factor_rates", given, f"multiples of the learning rate by factor ({', '.join(names)})")
    for name, value in given.items():
        if name not in names:
            raise unknown("factor in factor_rates", name, names)
        positive(f"factor_rates.{name}", value)


@functools.cache
def config_class(name: str) -> type[ChainConfig]:
    """The config class of a method, made from its settings.

    Raises:
        TapertuneError: no such method; the nearest name is suggested.
    """
    row = get_method(name)
    fields = [
        (f.name, f.type, dataclasses.field(default=f.default, metadata=f.metadata))
        for f in dataclasses.fields(row.settings)
    ]
    cls = dataclasses.make_dataclass(
        row.config_name, fields, bases=(ChainConfig,), namespace={"method": row.name, "__doc__": _doc(row)}
    )
    _check_keywords(cls, row)
    cls.__module__ = __name__
    setattr(sys.modules[__name__], row.config_name, cls)  # where pickle looks for it
    return cls


def make_config(method: str, **values: Any) -> ChainConfig:
    """A method's config by the method's name. PEFT's ``r`` and ``lora_dropout`` are the method's own rank and dropout.

    Raises:
        TapertuneError: an unknown method or field (the nearest is suggested), or a value out of range.

    >>> make_config("aflora", r=8).settings().r
    8
    >>> make_config("adalora", r=6, lora_dropout=0.1).settings().init_r
    6
    """
    return config_class(method)(**values)


def _check_keywords(cls: type[ChainConfig], row: Method) -> None:
    """Has a config class take PEFT's names of its fields, and name the nearest field for one that it does not have."""
    make: Any = cls.__init__
    known = {f.name for f in dataclasses.fields(cls) if f.init}

    @functools.wraps(make)
    def __init__(self: ChainConfig, *args: Any, **values: Any) -> None:
        values = row.own_names(values)
        for key in values:
            if key not in known:
                # PEFT looks for these words, and goes on without the field where it reads a file of a later version
                reason = unknown(f"field of {row.name}", key, [*run_fields(row.name), *_GIVEN])
                raise UnknownField(f"{cls.__name__} got an unexpected keyword argument: {reason}")
        make(self, *args, **values)

    cls.__init__ = __init__  # type: ignore[method-assign]


def _doc(row: Method) -> str:
    lines = [f"{row.title}: {row.summary}.", "", f"Source: {row.paper}.", "", "Args:"]
    for f in dataclasses.fields(row.settings):
        lines.append(f"    {f.name}: {f.metadata['help']} (default {f.default!r}).")
    for f in dataclasses.fields(ChainConfig):
        if "help" in f.metadata and f.name in ChainConfig.__annotations__:
            lines.append(f"    {f.name}: {f.metadata['help']}.")
    return "\n".join(lines)
