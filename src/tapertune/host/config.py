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
    train_layers: float | int | None = field(
        default=None,
        metadata={
            "help": "adapt the top layers alone: a share of the model's layers, such as 0.5, or so many; becomes"
            " layers_to_transform when the adapter is made"
        },
    )
    trainable_token_indices: list[int] | dict[str, list[int]] | None = field(
        default=None,
        metadata={
            "help": "tokens whose embeddings train beside the adapter (PEFT's trainable tokens): their numbers, or"
            " lists of them by the embedding's name"
        },
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
    layer_kinds: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata={"help": "what adapted layers are, by module, where not linear; written when the adapter is saved"},
    )
    coverage: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "shares of the base model that are adapted; written when the adapter is saved"},
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
        check_train_layers(self)
        if self.layers_pattern and self.layers_to_transform is None and self.train_layers is None:
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
    "train_layers",
    "trainable_token_indices",
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
    pattern = config.layers_pattern
    if pattern is not None and not isinstance(pattern, str | list | tuple):
        raise bad_value("layers_pattern", pattern, "a name, or a list of names")
    named = config.target_parameters
    if named is not None and not (isinstance(named, list | tuple | set) and all(isinstance(n, str) for n in named)):
        raise bad_value("target_parameters", named, "a list of parameters' names")
    layers = config.layers_to_transform
    for layer in layers if isinstance(layers, list | tuple) else [] if layers is None else [layers]:
        if isinstance(layer, bool) or not isinstance(layer, int):
            raise bad_value("layers_to_transform", layers, "a layer's number, or a list of them")
    flag("init_weights", config.init_weights)
    check_token_numbers(config.trainable_token_indices)
    for name in ("frozen", "ranks", "layer_kinds", "coverage", "shared_sizes"):
        if not isinstance(getattr(config, name), Mapping):
            raise bad_value(name, getattr(config, name), "a mapping")


def check_train_layers(config: ChainConfig) -> None:
    """Raises TapertuneError where ``train_layers`` is no share and no number, or layers are named otherwise too."""
    value, targets = config.train_layers, config.target_modules
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not value > 0 or (isinstance(value, float) and value > 1):
        raise bad_value("train_layers", value, "a share of the layers above 0.0 up to 1.0, or a whole number of them")
    if config.layers_to_transform is not None:
        raise TapertuneError("train_layers and layers_to_transform both say which layers are adapted: give one of them")
    if isinstance(targets, str) and targets.lower() != "all-linear":
        raise bad_value("train_layers", value, "None when target_modules is one regular expression")


def check_token_numbers(given: Any) -> None:
    """Raises TapertuneError unless these are numbers of tokens, or lists of them by an embedding's name."""
    name = "trainable_token_indices"
    lists = given if isinstance(given, Mapping) else {} if given is None else {"": given}
    for module, numbers in lists.items():
        where = f"{name}.{module}" if module else name
        if not isinstance(numbers, list | tuple):
            raise bad_value(where, numbers, "a list of tokens' numbers, or such lists by the embedding's name")
        natural = [n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and n >= 0]
        if len(natural) < len(numbers) or not natural or len(set(natural)) < len(natural):
            raise bad_value(where, list(numbers), "a list of different whole numbers, zero or more")


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
