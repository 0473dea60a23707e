"""The callback for programs that build their Trainer themselves and have no place for callbacks of others.

``TAPERTUNE_CALLBACK=1`` in the environment, or ``add_to_every_trainer()``, gives each Trainer of the process that
trains an adapter with a plan the callback that it lacks.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from ..adapt.missing_controller import is_followed
from ..host import adapted_parts, planned_adapters
from .trainer import TapertuneCallback, module_of

_log = logging.getLogger("tapertune")
_MARK = "adds_tapertune"


def add_to_every_trainer() -> None:
    """From now on a Trainer that starts to train an adapter with a plan, and has neither a ``TapertuneCallback`` nor a
    controller for it, gets the callback, and a line in the log says so. A second call changes nothing.
    """
    original = CallbackHandler.on_train_begin
    if getattr(original, _MARK, False):
        return

    @functools.wraps(original)
    def on_train_begin(
        self: CallbackHandler, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        add_where_missing(self)
        return original(self, args, state, control, **kwargs)

    setattr(on_train_begin, _MARK, True)
    CallbackHandler.on_train_begin = on_train_begin  # type: ignore[method-assign]


def add_where_missing(handler: CallbackHandler) -> TrainerCallback | None:
    """The callback that a Trainer's handler lacked; None where nothing was missing.

    Several adapters with plans that train at once are left alone: the warning of an adapter whose plan nobody runs
    follows after the first step.
    """
    model = module_of(handler.model)
    if not isinstance(model, nn.Module) or any(isinstance(one, TapertuneCallback) for one in handler.callbacks):
        return None
    names = planned_adapters(model)
    if len(names) != 1 or is_followed(model.parameters()):
        return None
    callback = TapertuneCallback(adapter_name=names[0])
    handler.add_callback(callback)
    method = adapted_parts(model, names[0])[0].config.method
    _log.warning(f"this Trainer runs the plan of adapter {names[0]!r} ({method}), by TAPERTUNE_CALLBACK or a plug-in")
    return callback
