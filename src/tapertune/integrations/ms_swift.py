"""The tuners of ms-swift: ``--tuner_type tapertune_aflora`` and so on, one for each method.

``plugins/ms_swift.py`` beside this file is what ``--external_plugins`` is given. Of ms-swift's options those that were
given are taken: ``--target_modules``, ``--target_regex``, ``--modules_to_save``, ``--lora_rank``, ``--lora_alpha``,
``--lora_dropout`` and the ``--adalora_*``; all else has the method's own default. ``TAPERTUNE_CONFIG`` in the
environment may hold more fields of the config, as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from typing import Any

from torch import nn

from ..errors import TapertuneError, bad_value
from ..host import adapt_model, load_adapted, make_config
from ..methods import METHODS
from .every_trainer import add_to_every_trainer

PREFIX, FIELDS = "tapertune_", "TAPERTUNE_CONFIG"
_OPTIONS = {
    "lora_rank": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "adalora_init_r": "init_r",
    "adalora_target_r": "target_r", "adalora_tinit": "tinit", "adalora_tfinal": "tfinal", "adalora_deltaT": "deltaT",
    "adalora_beta1": "beta1", "adalora_beta2": "beta2", "adalora_orth_reg_weight": "orth_reg_weight",
    "modules_to_save": "modules_to_save", "target_modules": "target_modules", "target_regex": "target_modules",
}  # fmt: skip
_log = logging.getLogger("tapertune")


def register() -> None:
    """Adds a tuner for each method to ms-swift's, and the callback to its trainers."""
    from swift.tuner_plugin import PeftTuner, tuners_map  # pyright: ignore[reportMissingImports]

    for method in METHODS:
        tuners_map[PREFIX + method] = type(f"Tapertune_{method}", (_Tuner, PeftTuner), {"method": method})
    add_to_every_trainer()


class _Tuner:
    """What ms-swift asks of a tuner, for one method; saving is its ``PeftTuner``'s."""

    method: str

    @classmethod
    def prepare_model(cls, args: Any, model: nn.Module) -> Any:
        values = config_values(args)
        _log.warning(f"{cls.method} with {', '.join(f'{k}={v!r}' for k, v in values.items()) or 'its defaults'}")
        return adapt_model(model, make_config(cls.method, **values))

    @staticmethod
    def from_pretrained(model: nn.Module, model_id: str, **kwargs: Any) -> Any:
        return load_adapted(model, model_id, trainable=kwargs.pop("is_trainable", False), **kwargs)


def config_values(args: Any, arguments: list[str] | None = None) -> dict[str, Any]:
    """Fields of a config, from the options that were given to ms-swift and from the environment.

    Args:
        args: ms-swift's arguments.
        arguments: as they were typed; None: those of this process.

    Raises:
        TapertuneError: ``TAPERTUNE_CONFIG`` is no JSON mapping.
    """
    task = str(getattr(args, "task_type", None) or "causal_lm").upper()
    values: dict[str, Any] = {"target_modules": "all-linear"}
    if task in ("CAUSAL_LM", "SEQ_CLS"):
        values["task_type"] = task
    typed = sys.argv if arguments is None else arguments
    defaults = _defaults(type(args))
    for option, name in _OPTIONS.items():
        value = getattr(args, option, None)
        if value != defaults.get(option, value) or any(word.split("=")[0] == f"--{option}" for word in typed):
            values[name] = "all-linear" if value == ["all-linear"] else value
    return {**{key: value for key, value in values.items() if value not in (None, [])}, **_from_environment()}


def _defaults(kind: type) -> dict[str, Any]:
    """The options' defaults, as far as they are told."""
    if not dataclasses.is_dataclass(kind):
        return {}
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(kind)
        if field.name in _OPTIONS
    }


def _from_environment() -> dict[str, Any]:
    text = os.environ.get(FIELDS, "")
    if not text.strip():
        return {}
    try:
        values = json.loads(text)
    except ValueError as error:
        raise TapertuneError(f"{FIELDS} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise bad_value(FIELDS, values, 'fields of a config as JSON, such as {"r": 4}')
    return values
