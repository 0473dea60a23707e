"""What becomes of each field of PEFT's configs when an adapter is imported: a table a class.

Nothing may be dropped that changes what the adapter computes. A field is carried (an importer reads it), harmless (its
reason stands beside it), or refused unless it has a value that changes nothing. A field that no table knows is refused
when it says something, as a newer PEFT may mean by it another update; a test holds the tables against PEFT's classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from ...errors import TapertuneError
from ..fields import check_type
from ..folder import CONFIG
from .source import Source

_Task = Literal["SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"]
_Rank = Annotated[int, Field(ge=1, le=1 << 20, description="a whole number from 1 to 1048576")]
_Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 64, description="a whole number of at most 64 bits")]
_Scale = Annotated[float, Field(gt=0, description="a finite number above 0")]
_Finite = Annotated[float, Field(description="a finite number")]
_Probability = Annotated[float, Field(ge=0, lt=1, description="a number from 0 up to, but not including, 1")]


@dataclass(frozen=True)
class Carried:
    """Read by an importer, which needs it of this type."""

    hint: Any


@dataclass(frozen=True)
class Harmless:
    """Says nothing about what the finished adapter computes, for this reason."""

    why: str


@dataclass(frozen=True)
class Refused:
    """Imported only with one of these values: any other makes an update that is not this method's."""

    unless: tuple[Any, ...] = (None, False)
    hint: str = ""


Rule = Carried | Harmless | Refused

_TENSORS = "the file's tensors name every adapted module"
_LAYER = "the layer that is adapted tells how its weight lies"
_TRAINING = "how it was trained, not what it computes"
_START = "settings of a start; init_lora_weights says whether that start has changed the base"
_FORMAT = "about the file"

_COMMON: dict[str, Rule] = {
    "base_model_name_or_path": Carried(str | None),
    "revision": Carried(str | None),
    "task_type": Carried(_Task | None),
    "auto_mapping": Carried(dict[str, str | None] | None),
    "modules_to_save": Carried(list[str] | None),
    "peft_type": Carried(str | None),
    "peft_version": Harmless(_FORMAT),
    "inference_mode": Harmless("an imported adapter is for inference until it is loaded to train"),
    "target_modules": Harmless(_TENSORS),
    "exclude_modules": Harmless(_TENSORS),
    "layers_to_transform": Harmless(_TENSORS),
    "layers_pattern": Harmless(_TENSORS),
    "fan_in_fan_out": Harmless(_LAYER),
    "bias": Refused((None, "none"), "trained biases are no part of the adapter's update"),
}

_CONVERT = "the start changed the base's weights: save it with path_initial_model_for_weight_conversion"
LORA: dict[str, Rule] = {
    **_COMMON,
    "r": Carried(_Rank | None),
    "lora_alpha": Carried(_Scale | None),
    "lora_dropout": Carried(_Probability | None),
    "rank_pattern": Carried(dict[str, _Rank] | None),
    "alpha_pattern": Carried(dict[str, _Finite] | None),
    "use_rslora": Carried(bool | None),
    # eva and orthogonal starts, and the frozen B of mica, are in A and B alone
    "init_lora_weights": Refused((None, True, False, "gaussian", "eva", "orthogonal", "mica"), _CONVERT),
    "ensure_weight_tying": Carried(bool | None),
    "loftq_config": Harmless(_START),
    "eva_config": Harmless(_START),
    "corda_config": Harmless(_START),
    "lora_ga_config": Harmless(_START),
    "velora_config": Harmless("changes what backward keeps"),
    "megatron_core": Harmless("the name of a package; megatron_config says whether it is used"),
    "qalora_group_size": Harmless("of use_qalora alone"),
    "runtime_config": Harmless("not saved"),
    "megatron_config": Refused(),
    "trainable_token_indices": Refused((None, False, [], {}), "single trained rows of an embedding"),
    "use_dora": Refused(),
    "use_qalora": Refused(),
    "use_bdlora": Refused(),
    "lora_bias": Refused(),
    "layer_replication": Refused((None, False, []), "a deeper stack of the base's layers"),
    "target_parameters": Refused((None, False, []), "updates of parameters that are no layer's weight"),
    "alora_invocation_tokens": Refused((None, False), "an update that begins at certain tokens"),
    "arrow_config": Refused(),
    "kasa_config": Refused(),
    "monteclora_config": Refused(),
}

ADALORA: dict[str, Rule] = {
    **LORA,
    "init_r": Carried(_Rank | None),
    "target_r": Carried(_Rank | None),
    "rank_pattern": Harmless("the tensors have the ranks that it leaves"),
    "r": Harmless("PEFT's AdaLoRA reads init_r"),
    "alpha_pattern": Harmless("PEFT's AdaLoRA has one scaling"),
    "use_rslora": Harmless("PEFT's AdaLoRA scales by lora_alpha / init_r"),
    "init_lora_weights": Harmless("PEFT's AdaLoRA has one start"),
    **dict.fromkeys(
        ("tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"), Harmless(_TRAINING)
    ),
}

VERA: dict[str, Rule] = {
    **{name: rule for name, rule in _COMMON.items() if name != "exclude_modules"},
    "r": Carried(_Rank | None),
    "projection_prng_key": Carried(_Seed | None),
    "save_projection": Harmless("the file tells whether it holds the projections"),
    "vera_dropout": Carried(_Probability | None),
    "d_initial": Carried(_Finite | None),
    "init_weights": Harmless(_TRAINING),
}

TABLES: dict[str, dict[str, Rule]] = {"LORA": LORA, "ADALORA": ADALORA, "VERA": VERA}


def check_fields(source: Source, table: Mapping[str, Rule], *, closed: bool) -> None:
    """Raises TapertuneError naming the first field that cannot be imported.

    Args:
        source: whose config is checked.
        table: what becomes of each field.
        closed: whether a field that the table lacks is refused when it says something. Forks of PEFT have their own.
    """
    path = (source.path if source.path.is_dir() else source.path.parent) / CONFIG
    for name, value in source.config.items():
        rule = table.get(name)
        if isinstance(rule, Carried):
            check_type(path, name, value, rule.hint)
        elif isinstance(rule, Refused):
            _check_value(path, name, value, rule)
        elif rule is None and closed and value not in (None, False, 0, "", [], {}):
            raise TapertuneError(
                f"{path}: {name} is {_short(value)}, a field that is not known here: what it does to the adapter cannot"
                " be told, so it is not imported"
            )


def _check_value(path: Any, name: str, value: Any, rule: Refused) -> None:
    plain = value.lower() if isinstance(value, str) else value
    if any(plain == allowed and type(plain) is type(allowed) for allowed in rule.unless):
        return
    why = f" ({rule.hint})" if rule.hint else ""
    allowed = " or ".join(json.dumps(allowed) for allowed in rule.unless)
    raise TapertuneError(
        f"{path}: {name} is {_short(value)}: an adapter with {name} is not plain and cannot be imported{why}; allowed:"
        f" {allowed}"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


def pattern_value(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """PEFT's rule: the value of the first key that the module's path ends with; keys may be regular expressions.

    Raises:
        TapertuneError: a key is no regular expression, or one that may take for ever.
    """
    for key, value in (patterns or {}).items():
        _check_pattern(key)
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _check_pattern(key: str) -> None:
    # repeated groups, and many repeats beside each other, take exponential or high polynomial time
    if len(key) > 1000 or re.search(r"\)\s*[*+{]", key) or len(re.findall(r"[*+{]", key)) > 4:
        raise TapertuneError(f"the pattern {_short(key)} repeats too much to be matched in bounded time; name modules")
    try:
        re.compile(key)
    except (re.error, OverflowError, RecursionError) as error:
        raise TapertuneError(f"the pattern {_short(key)} is no regular expression: {error}") from error
