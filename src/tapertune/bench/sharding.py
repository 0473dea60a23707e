"""Refuses runs whose weights would be split over processes: such models are not saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import TapertuneError

_ON = ("1", "true", "yes", "on", "y", "t")
_SPLIT = 3  # DeepSpeed's stage that splits the weights themselves


def check_unsharded(training: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Does each process hold the whole model?

    Args:
        training: the run's block.
        environment: of the process, in which ``accelerate launch`` says what it was asked for.

    Raises:
        TapertuneError: no, FSDP or DeepSpeed's third stage is to split it.
    """
    if training.get("fsdp"):
        raise _refused("training.fsdp", training["fsdp"])
    if _is_on(environment, "ACCELERATE_USE_FSDP"):
        raise _refused("ACCELERATE_USE_FSDP", environment["ACCELERATE_USE_FSDP"])
    if (stage := _stage(training.get("deepspeed"))) is not None:
        if stage >= _SPLIT:
            raise _refused("training.deepspeed: zero_optimization.stage", stage)
    elif _is_on(environment, "ACCELERATE_USE_DEEPSPEED"):
        name = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
        stage = _stage(environment.get(name))
        if stage is None:
            name = "ACCELERATE_DEEPSPEED_ZERO_STAGE"
            stage = int(environment.get(name, 0))
        if stage >= _SPLIT:
            raise _refused(name, stage)


def _refused(field: str, value: object) -> TapertuneError:
    return TapertuneError(
        f"{field} is {value!r}; weights that are split over processes are not saved: use several processes without it"
        " (DDP), or DeepSpeed's stages 1 and 2"
    )


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in _ON


def _stage(config: Any) -> int | None:
    """The stage that a DeepSpeed config asks for, given as a table or its file; None without one."""
    if config in (None, "", "none"):
        return None
    if not isinstance(config, Mapping):
        try:
            config = json.loads(Path(str(config)).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TapertuneError(f"cannot read DeepSpeed's settings {str(config)!r}: {error}") from error
    return int(config.get("zero_optimization", {}).get("stage", 0))
