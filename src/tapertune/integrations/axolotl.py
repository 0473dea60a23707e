"""The plug-in of axolotl. In its YAML::

    plugins: [tapertune.integrations.axolotl.TapertunePlugin]
    adapter: tapertune
    tapertune: {method: aflora, r: 4}

``tapertune`` holds the method's name and fields of its config; ``plan`` among them changes the method's plan. Without
``target_modules`` there, axolotl's ``lora_target_modules`` and ``lora_target_linear`` say what is adapted.
``lora_model_dir`` names an adapter to go on from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import TapertuneError, bad_value
from ..host import ChainConfig, adapt_model, load_adapted, make_config
from .trainer import TapertuneCallback

if TYPE_CHECKING:
    from torch import nn

    AdapterCapabilities: Any
    BaseModel = BasePlugin = object
else:
    try:
        from axolotl.integrations.base import AdapterCapabilities, BasePlugin
        from pydantic import BaseModel
    except ImportError:  # read by a tool that has no axolotl
        AdapterCapabilities, BasePlugin, BaseModel = None, object, object

ADAPTER = "tapertune"
_TASKS = {"SequenceClassification": "SEQ_CLS", "TokenClassification": "TOKEN_CLS"}


class TapertuneArgs(BaseModel):
    """What the plug-in adds to axolotl's settings."""

    tapertune: dict[str, Any] | None = None


class TapertunePlugin(BasePlugin):
    """``adapter: tapertune``: the adapter of a method, and the callback that runs its plan."""

    def get_input_args(self) -> str:
        return f"{__name__}.{TapertuneArgs.__name__}"

    def get_adapter_capabilities(self) -> list[Any]:
        return [AdapterCapabilities(name=ADAPTER)]

    def load_adapter(
        self, model: nn.Module, cfg: Any, inference: bool = False, config_only: bool = False
    ) -> tuple[Any, ChainConfig | None] | None:
        """The model with the adapter, and its config; (None, config) where a trainer makes the adapter itself; None
        where ``adapter`` is another."""
        if cfg.adapter != ADAPTER:
            return None
        if cfg.lora_model_dir and not config_only:
            return load_adapted(model, str(cfg.lora_model_dir), trainable=not inference), None
        config = adapter_config(cfg, model)
        return (None if config_only else adapt_model(model, config)), config

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        return [TapertuneCallback()] if cfg.adapter == ADAPTER else []


def adapter_config(cfg: Any, model: nn.Module) -> ChainConfig:
    """The config that axolotl's settings describe.

    Raises:
        TapertuneError: no ``tapertune`` block, or a method, field or value in it that is none.
    """
    block = cfg.get("tapertune")
    if not isinstance(block, Mapping) or "method" not in block:
        raise bad_value("tapertune", block, "a block with `method` and fields of its config: {method: aflora, r: 4}")
    values = {key: _plain(value) for key, value in block.items() if value is not None}
    method = values.pop("method")
    if not isinstance(method, str):
        raise bad_value("tapertune.method", method, "a method's name")
    targets = "all-linear" if cfg.lora_target_linear else _plain(cfg.lora_target_modules)
    values = {"target_modules": targets, "task_type": _task_type(model), **values}
    if cfg.lora_modules_to_save:
        values = {"modules_to_save": list(cfg.lora_modules_to_save), **values}
    try:
        return make_config(method, **{key: value for key, value in values.items() if value is not None})
    except TapertuneError as error:
        raise TapertuneError(f"tapertune: {error}") from error


def _task_type(model: nn.Module) -> str:
    kind = type(model).__name__
    return next((task for ending, task in _TASKS.items() if ending in kind), "CAUSAL_LM")


def _plain(value: Any) -> Any:
    """A value of axolotl's settings, whose mappings answer None for what they do not have, as Python's own."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
