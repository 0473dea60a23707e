"""What a run will take, from shapes alone: memory by its parts, operations, step time, minutes.

Memory and operations are those of models cut to a few layers, on the meta device, each further layer taking what the
last one took: a step's tensors are counted as its operations make them (``step_memory``). Time is the floor, timed on
this machine (``floor``), and on top of it what the method adds: its operations at the floor's own speed, the passes
over memory that narrow products are, and calls.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from ..methods import METHODS
from ..runfile.settings import BASELINES, RunSettings, adapter_config
from . import estimated
from .floor import Floor, floor_of
from .over_time import OverTime, frees_layers, over_time
from .pass_work import PassWork, autocast, between, pass_work
from .planned import Reads, config_of
from .shapes import Shape, base_of, shape_of
from .step_memory import StepBytes

# bytes an optimizer keeps for each parameter, by the start of Trainer's name for it; AdamW's is the usual
_OPTIMIZERS = {"sgd": 0.0, "rmsprop": 4.0, "adagrad": 4.0, "lion": 4.0, "adafactor": 0.1, "adamw_bnb_8bit": 2.0,
               "adamw_8bit": 2.0, "paged_adamw_8bit": 2.0, "lion_8bit": 1.0}  # fmt: skip
_ADAMW = 8.0
# A narrow product reads and writes its wide side as well: so many multiplications a number take as long, in the kernels
# that this machine's processor runs. Fitted to benchmarks/speed/cpu.json, as is what follows.
_NARROW = 14
_CALLS = 40  # of torch, that take as long as an adapted layer's own, forward and backward
_TRAINED = 3e-9  # seconds a trained parameter, for the optimizer, the norm and the scores
_STEP_CALLS = 800  # of torch, that take as long as what Trainer does around a step
# On a processor, what a run loads and sets up after it has begun; and what the C library keeps of freed pieces, as a
# share of a step's tensors, which come in other sizes with each batch. Measured with benchmarks/plan.py.
_SET_UP = 40 * 2**20
_KEPT_PIECES = 0.45
_CUDA_CONTEXT = 500 * 2**20  # what a process holds on a GPU before its first tensor


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes at the moment when there are most.

    Attributes:
        process: of the process before the model: Python, libraries; on a GPU, what the driver holds.
        weights: base model, adapter and head.
        optimizer: its state.
        scores: running averages of importance.
        step: activations, gradients and what is there for a moment, or an evaluation's where that is more.
        pieces: freed memory that a processor's C library keeps between them.
        held: of these, what backward needs.
    """

    process: float
    weights: float
    optimizer: float
    scores: float
    step: float
    pieces: float
    held: float

    @property
    def total(self) -> float:
        return self.process + self.weights + self.optimizer + self.scores + self.step + self.pieces


@dataclass(frozen=True, kw_only=True)
class Time:
    """Seconds on this machine.

    Attributes:
        step: of an optimizer step, as a mean over the run.
        floor: of the frozen model's share of it.
        training, evaluating: of the whole run; None where only its data can tell how long it is.
    """

    step: float
    floor: float
    training: float | None
    evaluating: float | None

    @property
    def minutes(self) -> float | None:
        return None if self.training is None else (self.training + (self.evaluating or 0.0)) / 60


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take.

    Attributes:
        settings: the run's.
        reads: what it reads.
        parameters: of the adapter that train, over the run; for ``full`` the base model's.
        head: parameters of the head that trains.
        adapter_bytes: of the file that is saved, the head's weights in it.
        memory, time: None for a time that cannot be known here.
        steps, flops: of the whole run, or None where only its data can tell.
        step_flops: of an optimizer step.
        device: that it was reckoned for.
    """

    settings: RunSettings
    reads: Reads
    parameters: OverTime
    head: int
    adapter_bytes: int
    memory: Memory
    time: Time | None
    steps: int | None
    flops: float | None
    step_flops: float
    device: str


def reads_of(settings: RunSettings) -> Reads:
    """What a run reads by what is known of its task without its files; texts are cut at ``task.max_length``."""
    block, task = settings.task, settings.task.declaration()
    known = estimated.DATA.get(block.name) if block.train is None else None
    mean = min(known.source if known else task.max_length / 2, task.max_length)
    target = known.target if known else 0
    return Reads(rows=estimated.rows(settings), mean=mean, longest=task.max_length, target=target or 64)


def plan_run(
    settings: RunSettings,
    *,
    reads: Reads | None = None,
    device: str = "cpu",
    process: float = 0.0,
    config: Any = None,
    timed: bool = True,
) -> Estimate:
    """What a run will take.

    Args:
        settings: the run's.
        reads: what it reads; without it, what is known of its task.
        device: that it is for: ``cpu`` or ``cuda``.
        process: bytes that a process holds before it has a model.
        config: the model's; without it, that of the settings' model.
        timed: whether to say times, which may take some seconds of timing.

    Raises:
        TapertuneError: no such model, or the adapter or its plan does not fit it.
    """
    config = config_of(settings) if config is None else config
    reads = reads or reads_of(settings)
    kind = settings.task.declaration().kind
    shape, trained = trained_over_time(settings, config, reads)
    steps = _steps(settings, reads)
    with warnings.catch_warnings():
        # meant for a training that is none: no controller follows its plan, and nothing is learned
        warnings.simplefilter("ignore")
        work = pass_work(settings, config, kind, reads, device)
    of_step = settings.training.get("gradient_accumulation_steps", 1)
    size = settings.training["per_device_train_batch_size"]
    passes = work.base + between(work.all_trains, work.all_done, trained.done)
    step_flops = passes * of_step
    return Estimate(
        settings=settings,
        reads=reads,
        parameters=trained,
        head=shape.head,
        adapter_bytes=4 * (shape.start + shape.head),
        memory=_memory(settings, shape, work.bytes, device, process),
        time=_time(settings, config, kind, reads, shape, trained, work, steps, device) if timed else None,
        steps=steps,
        flops=None
        if steps is None or reads.rows is None
        else step_flops * _share(settings, reads, size, of_step, steps),
        step_flops=step_flops,
        device=device,
    )


def trained_over_time(settings: RunSettings, config: Any, reads: Reads) -> tuple[Shape, OverTime]:
    """What a run trains, and how many of its parameters train when.

    Raises:
        TapertuneError: the adapter does not fit the model, or its plan does not fit the model or the run's length.
    """
    kind = settings.task.declaration().kind
    shape = shape_of(settings, base_of(config, kind, getattr(torch, settings.dtype)), kind)
    steps = _steps(settings, reads)
    if steps is not None:
        estimated.check_plans(settings, shape, steps)
    return shape, over_time(shape, steps, _rank(settings))


def _share(settings: RunSettings, reads: Reads, size: int, of_step: int, steps: int) -> float:
    """Whole steps that the run's rows make: the last of an epoch may be smaller."""
    if settings.training.get("max_steps", -1) > 0:
        return float(steps)
    return settings.training["num_train_epochs"] * (reads.rows or 0) / (size * of_step)


def _steps(settings: RunSettings, reads: Reads) -> int | None:
    training = settings.training
    if (most := training.get("max_steps", -1)) > 0:
        return most
    if reads.rows is None:
        return None
    batches = math.ceil(reads.rows / training["per_device_train_batch_size"])
    return math.ceil(training["num_train_epochs"] * max(1, math.ceil(batches / _accumulated(settings))))


def _accumulated(settings: RunSettings) -> int:
    return settings.training.get("gradient_accumulation_steps", 1)


def _rank(settings: RunSettings) -> int | None:
    if settings.method.name in BASELINES:
        return None
    row = METHODS[settings.method.name]
    return getattr(adapter_config(settings).settings(), row.rank, None)


# ---- memory ----------------------------------------------------------------------------------------------------------


def _memory(settings: RunSettings, shape: Shape, held: StepBytes, device: str, process: float) -> Memory:
    trained = shape.start + shape.head
    kept = next((v for k, v in _OPTIMIZERS.items() if str(settings.training["optim"]).startswith(k)), _ADAMW)
    scored = sum(
        count * 4.0 * (2 + (plan.importance.window is not None))
        for plan, (count, _) in zip(shape.plans, shape.stakes, strict=True)
    )
    away, step = device == "cuda", max(held.peak, held.forward)
    return Memory(
        process=_CUDA_CONTEXT if away else process + (_SET_UP if process else 0),
        weights=_weights(settings, shape),
        optimizer=kept * trained,
        scores=scored,
        step=step,
        pieces=0.0 if away else _KEPT_PIECES * step,
        held=held.held,
    )


def _weights(settings: RunSettings, shape: Shape) -> float:
    """Bytes of base model, head and adapter; a head that trains is there twice, once as it was."""
    each = torch.finfo(getattr(torch, settings.dtype)).bits / 8
    if settings.method.name in BASELINES:
        return each * shape.base
    packed = 0.0
    if settings.quantization is not None:
        inside = sum(p.weights for p in shape.parts if not p.head and "pooler" not in p.name and p.adapter is not None)
        packed = inside * (each - _packed(settings))
    return each * (shape.base + shape.head) - packed + 4.0 * shape.held


def _packed(settings: RunSettings) -> float:
    """Bytes of a quantised weight: in 4 bits, each block of 64 has a scale, in float32 or itself of 8 bits."""
    block = settings.quantization
    assert block is not None, "asked of quantised models alone"
    if block.bits == 8:
        return 1.0
    return 0.5 + (1 / 64 if block.double else 4 / 64)


# ---- time ------------------------------------------------------------------------------------------------------------


def _time(
    settings: RunSettings, config: Any, kind: str, reads: Reads, shape: Shape, trained: OverTime, work: PassWork,
    steps: int | None, device: str,
) -> Time | None:  # fmt: skip
    size, passes = settings.training["per_device_train_batch_size"], _accumulated(settings)
    dtype = torch.bfloat16 if autocast(settings) else getattr(torch, settings.dtype)
    floor = floor_of(config, kind, size, reads.mean, dtype=dtype, device=device)
    if floor is None:
        return None
    each = _pass_seconds(settings, shape, trained, work, floor)
    step = passes * each + _STEP_CALLS * floor.call + _TRAINED * (trained.average + shape.head)
    forward = floor.forward * (1.0 if work.all_trains == 0 else _share_of_forward(floor, work))
    whole = None if steps is None else _share(settings, reads, size, passes, steps) * step
    evaluating = None if steps is None else _evaluations(settings, reads, steps) * reads.evaluated * forward / size
    return Time(step=step, floor=passes * floor.seconds, training=whole, evaluating=evaluating)


def _share_of_forward(floor: Floor, work: PassWork) -> float:
    return 1.0 + work.all_trains / 3 / max(work.floor / 2, 1.0)


def _pass_seconds(settings: RunSettings, shape: Shape, trained: OverTime, work: PassWork, floor: Floor) -> float:
    method = settings.method.name
    if method == "head":
        return floor.forward
    again = floor.forward if settings.training.get("gradient_checkpointing") else 0.0
    speed = floor.seconds / work.floor  # of an operation
    if method == "full":
        return floor.seconds + again + speed * (work.base - work.floor)
    adapter = between(work.all_trains, work.all_done, trained.done)
    seconds = floor.seconds + again + speed * (adapter + 2 * _NARROW * work.narrow)
    seconds += _CALLS * floor.call * shape.modules
    below = sum(_below(plan) for plan in shape.plans)
    return seconds - floor.backward * below * trained.done


def _below(plan: Any) -> float:
    """The share of the layers in which backward ends once all has frozen that may."""
    if not frees_layers(plan):
        return 0.0
    layers = plan.policy.layers
    return layers if isinstance(layers, float) else 0.0


def _evaluations(settings: RunSettings, reads: Reads, steps: int) -> float:
    """Evaluations while training and the one at its end."""
    training = settings.training
    strategy = str(getattr(training.get("eval_strategy"), "value", training.get("eval_strategy")))
    if strategy == "steps":
        return 1 + steps / max(1, training.get("eval_steps") or training.get("logging_steps", 1))
    return 1 + (training["num_train_epochs"] if strategy == "epoch" and training.get("max_steps", -1) <= 0 else 0)
