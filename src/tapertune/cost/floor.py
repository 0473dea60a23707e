"""The floor of a step on this machine, timed for some seconds once and kept: the frozen model forward and backward.

A model of the run's own widths with one layer and one with a few more, random weights, take steps in turns; what a
layer adds stands for all others. Rows are fewer where a step of them would take seconds. With one thread on a processor
CPU time is measured, so that other processes do not count; else wall time, of which the least of several steps is
taken, as others' work only ever adds to it; what was timed beside much other work is not kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from ..errors import TapertuneError
from ..files import read_json_object, write_json
from ..runfile import environment
from ..tasks.cache import folder
from .planned import batch, cut, depth_of
from .shapes import base_of

SECONDS = 5.0
_VERSION = 1
_ROUNDS = 9
_FEW = 3  # layers of the deeper of the two
_PASS_FLOPS = 4e10  # of a timed step, at most about so many
_EIGHT = 8  # lengths are timed in steps of so many tokens


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Seconds of the frozen model for a batch, on the machine that timed it.

    Attributes:
        forward, backward: of the two passes; backward as far as the embeddings.
        call: of a call of one of torch's operations that has nothing to do.
    """

    forward: float
    backward: float
    call: float

    @property
    def seconds(self) -> float:
        return self.forward + self.backward


def floor_of(
    config: Any, kind: str, rows: int, tokens: float, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Floor | None:
    """The floor of a batch, as it was timed before, or timed now; None where that cannot be done here.

    Args:
        config: the model's.
        kind: of the task.
        rows: of a batch.
        tokens: of a row, on average.
        dtype: of weights and activations.
        device: ``cpu`` or ``cuda``.
    """
    if (device == "cuda" and not torch.cuda.is_available()) or (device == "cpu" and _is_emulated(dtype)):
        return None
    length = max(_EIGHT, min(round(tokens / _EIGHT), _affordable(config, _EIGHT)) * _EIGHT)
    share = tokens / length
    timed = min(rows, _affordable(config, length))
    path = folder() / f"floor-{_key(config, kind, timed, length, dtype, device)}.json"
    kept = _read(path)
    if kept is None:
        if not _fits(config, dtype, device):
            return None
        kept = _timed(config, kind, timed, length, dtype, device)
        if _clock(device) is time.process_time or not _is_busy():
            with suppress(TapertuneError):  # a folder that cannot be written to is done without
                write_json(path, {"version": _VERSION, **asdict(kept)}, parents=True)
    scale = share * rows / timed
    return Floor(forward=kept.forward * scale, backward=kept.backward * scale, call=kept.call)


def _is_emulated(dtype: torch.dtype) -> bool:
    """Whether this processor has no units for a half precision: a step there takes minutes, which nobody would wait."""
    known: Any = torch.ops.mkldnn
    supported = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    check = getattr(known, supported[dtype], None) if dtype in supported else None
    return check is not None and not check()


def _is_busy() -> bool:
    """Whether more programs want a core than there are cores, this one among them."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) + 1


def _layer_weights(config: Any) -> float:
    """Weights of a layer, about: enough to choose how many rows are timed."""
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return 4.0 * config.hidden_size**2 + 3.0 * config.hidden_size * inner


def _affordable(config: Any, length: int) -> int:
    """Rows of that length that are timed at most; of a wide model, rows are shorter too."""
    return max(1, int(_PASS_FLOPS / (4.0 * _FEW * _layer_weights(config) * length)))


def _fits(config: Any, dtype: torch.dtype, device: str) -> bool:
    """Whether two models of a few layers leave half of the memory alone."""
    size = 2.0 if dtype != torch.float32 else 4.0
    needed = 2 * size * (_FEW * _layer_weights(config) + config.vocab_size * config.hidden_size)
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    return needed < free / 2


def _key(config: Any, kind: str, rows: int, length: int, dtype: torch.dtype, device: str) -> str:
    values = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    hardware = environment.hardware()
    machine = [hardware.cpu, hardware.cores, hardware.threads, hardware.gpu, torch.__version__]
    text = json.dumps([_VERSION, values, kind, rows, length, str(dtype), device, machine], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _read(path: Path) -> Floor | None:
    try:
        found = read_json_object(path)
        return Floor(**{name: float(found[name]) for name in ("forward", "backward", "call")})
    except (TapertuneError, KeyError, TypeError, ValueError):
        return None


def _timed(config: Any, kind: str, rows: int, length: int, dtype: torch.dtype, device: str) -> Floor:
    """Times the floor. Torch's random numbers are afterwards as they were."""
    layers = depth_of(config)
    depths = sorted({min(1, layers), min(_FEW, layers)}) if layers else [0]
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        models = [_model(config if not layers else cut(config, depth), kind, dtype, device) for depth in depths]
        inputs = {k: torch.ones_like(v, device=device) for k, v in batch(kind, config, rows, length, 8).items()}
        now = _clock(device)
        times: list[list[tuple[float, float]]] = [[] for _ in models]
        end = now() + SECONDS
        for round_ in range(1 + _ROUNDS):
            for model, of_model in zip(models, times, strict=True):
                of_model.append(_step(model, inputs, now))
            if round_ > 1 and now() > end:
                break
    middle = statistics.median if now is time.process_time else min
    passes = [tuple(middle(each) for each in zip(*of_model[1:], strict=True)) for of_model in times]
    forward, backward = (_extended([p[part] for p in passes], depths, layers) for part in (0, 1))
    return Floor(forward=forward, backward=backward, call=_call(now, device))


def _extended(seconds: list[float], depths: list[int], layers: int | None) -> float:
    """What all layers take, from what some did."""
    if layers is None or len(depths) < 2:
        return seconds[0]
    each = max(0.0, (seconds[1] - seconds[0]) / (depths[1] - depths[0]))
    return seconds[1] + each * (layers - depths[1])


def _model(config: Any, kind: str, dtype: torch.dtype, device: str) -> Any:
    """The frozen model with weights in storage, their values of no matter; its embeddings ask for a gradient."""
    model = base_of(config, kind, dtype, device)
    model.requires_grad_(False)
    model.get_input_embeddings().register_forward_hook(_require_grad)
    return model.train()


def _require_grad(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.requires_grad_(True)


def _step(model: Any, inputs: dict[str, Tensor], now: Any) -> tuple[float, float]:
    begin = now()
    loss = model(**inputs).loss
    middle = now()
    loss.backward()
    return middle - begin, now() - middle


def _clock(device: str) -> Any:
    if device == "cuda":

        def now() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return now
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def _call(now: Any, device: str, count: int = 2000) -> float:
    one = torch.ones(1, device=device)
    begin = now()
    for _ in range(count):
        one.add_(1)
    return (now() - begin) / count
