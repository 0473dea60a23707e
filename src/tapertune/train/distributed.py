"""Runs of several processes, as torchrun and ``accelerate launch`` start them: all compute, the first one writes.

Refused are runs that several processes would split in a way that cannot work: weights, which are not saved so, and the
optimizer's parameters under a plan.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import PartialState
from torch import distributed

from ..errors import TapertuneError
from ..files import read_json_object
from ..tasks.kinds.sharing import gathered

_ON = ("1", "true", "yes", "on", "y", "t")
_LOST = re.compile(r"by peer|broken pipe|timed? ?out|remote process exited|connection|ncclRemoteError", re.IGNORECASE)
_SPLIT = 3  # DeepSpeed's stage that splits the weights themselves


class ProcessLost(RuntimeError):
    """Another process of the run has ended, so that this one cannot go on."""


def join(*, cpu: bool = False) -> torch.device:
    """Joins the processes that were started together, if there are others; returns the device of this one.

    Args:
        cpu: keep to the processor.
    """
    state = PartialState(cpu=cpu or on_processors())
    if cpu or state.device is None:
        return torch.device("cpu")
    # An earlier run of this process may have kept to the processor; its state stays.
    return torch.device("cuda", state.local_process_index) if torch.cuda.is_available() else state.device


def on_processors() -> bool:
    """Whether several processes were started where there is no accelerator: accelerate joins them only if told so."""
    accelerated = torch.cuda.is_available() or torch.xpu.is_available()
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not accelerated


def is_first() -> bool:
    """Whether this process is the one that writes and prints; known before ``join``."""
    return (distributed.get_rank() if _joined() else int(os.environ.get("RANK", "0"))) == 0


def wait() -> None:
    """Returns when all processes are here."""
    if _joined():
        distributed.barrier()


def total(value: int) -> int:
    """The sum over all processes."""
    return sum(gathered([value], distributed.get_world_size() if _joined() else 1))


def any_of(value: bool) -> bool:
    """Whether it is so in any process."""
    if not _joined():
        return value
    flag = torch.tensor(int(value), device=PartialState().device)
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


def is_lost(error: Exception) -> bool:
    """Whether an error says that another process does not answer any more."""
    return _joined() and isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


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
    name, stage = _asked(training, environment)
    if stage >= _SPLIT:
        raise _refused(name, stage)


def check_own_parameters(method: str, training: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Does the optimizer step on the parameters that a plan is to score, freeze and prune?

    Args:
        method: one with a plan.
        training, environment: as for ``check_unsharded``.

    Raises:
        TapertuneError: no, on flat copies of DeepSpeed's, of which each process has a part.
    """
    name, stage = _asked(training, environment)
    if stage > 0:
        raise TapertuneError(
            f"{name} is {stage}; its optimizer steps on copies, of which the plan of {method!r} can freeze and prune "
            "nothing: use several processes without DeepSpeed (DDP; an adapter's optimizer state is small)"
        )


def _asked(training: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[str, int]:
    """DeepSpeed's stage, 0 without it, and where it is asked for."""
    if (stage := _stage(training.get("deepspeed"))) is not None:
        return "training.deepspeed: zero_optimization.stage", stage
    if not _is_on(environment, "ACCELERATE_USE_DEEPSPEED"):
        return "", 0
    name = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
    if (stage := _stage(environment.get(name))) is not None:
        return name, stage
    name = "ACCELERATE_DEEPSPEED_ZERO_STAGE"
    return name, int(environment.get(name, 0))


def _refused(field: str, value: object) -> TapertuneError:
    return TapertuneError(
        f"{field} is {value!r}; weights that are split over processes are not saved: use several processes without it"
        " (DDP), or, for a method without a plan, DeepSpeed's stages 1 and 2"
    )


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in _ON


def _stage(config: Any) -> int | None:
    """The stage that a DeepSpeed config asks for, given as a table or its file; None without one."""
    if config in (None, "", "none"):
        return None
    if not isinstance(config, Mapping):
        try:
            config = read_json_object(str(config))
        except TapertuneError as error:
            raise TapertuneError(f"cannot read DeepSpeed's settings {str(config)!r}: {error}") from error
    return int(config.get("zero_optimization", {}).get("stage", 0))
