"""What a pass of one batch takes, on the meta device: operations, numbers read and written, bytes held."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..kernels import Adapted, Path, pass_flops
from ..runfile.settings import BASELINES, RunSettings
from .adapted_layers import adapted_layers
from .measured import base_flops
from .planned import Reads, batch, cut, depth_of, evaluated_rows, is_even, trained_model
from .shapes import head_modules
from .step_memory import StepBytes, step_bytes
from .trace import calls

_DEPTHS = (2, 3)  # layers of the cut models


@dataclass(frozen=True, kw_only=True)
class PassWork:
    """Of a pass of one batch.

    Attributes:
        base: operations of the base model and the head.
        floor: those of the frozen model, forward and backward: what is timed.
        all_trains, all_done: those of the adapter when all of it trains, and when all has frozen that may.
        narrow: numbers on the wide sides of narrow products, read or written.
        bytes: what it holds.
    """

    base: float
    floor: float
    all_trains: float
    all_done: float
    narrow: float
    bytes: StepBytes


def between(start: float, end: float, done: float) -> float:
    """From ``start`` to ``end`` by a share."""
    return start + (end - start) * done


def pass_work(settings: RunSettings, config: Any, kind: str, reads: Reads, device: str) -> PassWork:
    """The work of a run's pass: of models cut to a few layers, each further one taking what the last one took.

    Args:
        settings: the run's.
        config: its model's.
        kind: of its task.
        reads: what it reads.
        device: that it is for.
    """
    layers = depth_of(config)
    if layers is None or layers <= _DEPTHS[-1] or not is_even(settings):
        return _work_of(settings, config, kind, reads, device)
    low, high = (_work_of(settings, cut(config, depth), kind, reads, device) for depth in _DEPTHS)
    more = (layers - _DEPTHS[0]) / (_DEPTHS[1] - _DEPTHS[0])
    return _extended(low, high, more)


def _extended(low: Any, high: Any, more: float) -> Any:
    """Each number of ``low``, and what ``high`` has beyond it so many times."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(low):
        a, b = getattr(low, field.name), getattr(high, field.name)
        values[field.name] = _extended(a, b, more) if dataclasses.is_dataclass(a) else a + (b - a) * more
    return type(low)(**values)


def _work_of(settings: RunSettings, config: Any, kind: str, reads: Reads, device: str) -> PassWork:
    size = settings.training["per_device_train_batch_size"]
    half = autocast(settings)
    model = trained_model(settings, config, kind, half=half)
    longest = max(2, reads.longest)
    inputs = batch(kind, config, size, longest, reads.target)
    evaluated = batch(kind, config, evaluated_rows(settings, kind, config, longest), longest, reads.target)
    held = step_bytes(model, inputs, evaluated, device=device, autocast=half)
    head = [name for name, p in model.named_parameters() if p.requires_grad and _of_head(name, model, kind)]
    length = max(1, round(reads.mean))
    parts = base_flops(model, calls(model, head, length), length)
    tokens = size * reads.mean
    base = tokens * sum(parts.values())
    floor = tokens * (2 * parts["base_forward"] + parts["head"])
    layers = [] if settings.method.name in BASELINES else _layers(settings, model, device, half)
    count = round(tokens)
    done = [_all_done(layer) for layer in layers]
    return PassWork(
        base=base,
        floor=floor,
        all_trains=float(sum(pass_flops([layer], count, input_grad=True) for layer in layers)),
        all_done=float(sum(pass_flops([layer], count, input_grad=True) for layer in done)),
        narrow=float(sum(_narrow(layer, count) for layer in layers)),
        bytes=held,
    )


def _of_head(name: str, model: Any, kind: str) -> bool:
    inside = head_modules(model, kind) if not hasattr(model, "peft_config") else []
    return ".modules_to_save." in name or name.startswith(tuple(f"{module}." for module in inside))


def _layers(settings: RunSettings, model: Any, device: str, half: bool) -> list[Adapted]:
    groups = adapted_layers(model.train())
    plain = settings.quantization is None
    found = [layer for group in groups for layer in group.values()]
    return [
        dataclasses.replace(
            layer.changed(plain=plain and layer.spec.plain), call=layer.call._replace(device=device, autocast=half)
        )
        for layer in found
    ]


def _all_done(layer: Adapted) -> Adapted:
    """The layer when its matrices have frozen."""
    matrices = {factor.name for factor in layer.spec.update if len(factor.symbols) > 1}
    return layer.changed(trains=layer.trains - matrices) if not matrices >= layer.trains else layer


def _narrow(layer: Adapted, tokens: int) -> float:
    """Numbers that narrow products read or write beside what their operations tell of."""
    if layer.path(tokens, True) in (Path.DENSE_MAP, Path.MERGED, Path.VECTORS):
        return 0.0
    sides = 3 if layer.trains else 2
    drops = 2 if layer.spec.dropout else 0
    return float(tokens) * (sides * (layer.sizes["d_in"] + layer.sizes["d_out"]) + drops * layer.sizes["d_in"])


def autocast(settings: RunSettings) -> bool:
    """Whether the run computes in half precision beside weights that are whole."""
    return bool(settings.training.get("bf16") or settings.training.get("fp16"))
