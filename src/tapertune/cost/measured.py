r"""What a run cost in floating-point operations. A multiply and an add count as two.

For each row of ``L`` tokens, padding included (it is computed like any other), ``L`` being training's mean:

* **base forward**: ``2 * w`` for each vector that a linear layer of ``w`` weights reads (how many it reads is seen in
  one forward pass: ``L`` inside the body, 1 in a pooler), and ``4 * L * L * h`` for each self-attention of width ``h``
  (queries times keys, attention times values). Embeddings are look-ups and cost nothing.
* **base input gradient**: ``2 * w`` again where the layer's input asks for a gradient, which is seen in the same pass;
  and ``2 * L * L * h`` for each of the gradients of queries, keys, values and attention that is taken.
* **base weight gradient**: ``2 * w`` for ``full``; nothing for what is frozen.
* **adapter**: ``kernels.pass_flops``, as its kernels run, in passes of the mean number of tokens.
* **head**: its linear layers, all three of the above.

All of it follows what trains in each step, taken from the run's events: a factor's work ends with its freezing, a
rank's with its removal, a layer's backward pass once nothing trains in it or below. Under ``DistributedDataParallel``,
which goes on computing the gradients of what freezes, nothing ends with freezing.

Elementwise work (activations, norms, softmax, diagonals, the optimizer) is left out, as papers do, and so are penalties
and the second forward pass of activation checkpointing.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..events import Event
from ..host import FactorParameter, adapter_parameters
from ..kernels import Adapted, pass_flops
from ..runfile.record import Flops
from ..runfile.settings import BASELINES, RunSettings, adapter_config
from .adapted_layers import adapted_layers
from .trace import Call, attention_products, calls, training_only


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """How much a run read in training: tokens and rows, in so many forward passes."""

    tokens: int
    rows: int
    passes: int

    @property
    def length(self) -> float:
        """Mean padded length of a row."""
        return self.tokens / self.rows if self.rows else 0.0


@dataclass(kw_only=True)
class State:
    """What an adapter is in some consecutive steps.

    Attributes:
        first: index of the first step.
        training: names of the factors that train.
        ranks: of the modules.
        merged: modules that are computed as one weight.
    """

    first: int
    training: frozenset[str]
    ranks: dict[str, int]
    merged: frozenset[str]


def run_flops(
    settings: RunSettings,
    model: nn.Module,
    head: Sequence[str],
    tokens: Tokens,
    events: Sequence[Event],
    steps: int,
    *,
    distributed: bool = False,
) -> Flops:
    """Operations of a whole training, and their parts for one token on average.

    Args:
        model: as training left it, with the run's settings.
        head: names of the head's parameters.
        tokens, events, steps: what was read, what happened, and in how many optimizer steps.
        distributed: whether frozen factors went on costing their backward work, as where weights are split over
            processes.
    """
    if distributed:
        events = [event for event in events if event["type"] != "freeze"]
    with _as_in_training(settings, model):
        parts = _averaged(settings, model, head, tokens, events, steps)
    return Flops(total=sum(parts.values()) * tokens.tokens, per_token=parts)


def _averaged(
    settings: RunSettings, model: nn.Module, head: Sequence[str], tokens: Tokens, events: Sequence[Event], steps: int
) -> dict[str, float]:
    if settings.method.name in BASELINES:
        parts = base_flops(model, calls(model, head, _whole(tokens.length)), tokens.length)
        del parts["adapter"]
        return parts
    handles = {handle.name: handle for handle in adapter_parameters(model)}
    rank = adapter_config(settings).row.rank
    ranks = _first_ranks(events, handles, rank)
    states = list(run_states(events, ranks, _mergeable(handles)))
    ends = [*(state.first for state in states[1:]), max(steps, 1)]
    parts: dict[str, float] = {}
    traces: dict[frozenset[str], list[Call]] = {}
    merged: frozenset[str] = frozenset()
    for state, end in zip(states, ends, strict=True):
        modules = frozenset(handles[name].module for name in state.training)
        if modules not in traces:  # where gradients go follows from the modules in which something trains
            traces[modules] = _calls_in(state, model, head, handles, tokens)
        share = (end - state.first) / max(steps, 1)
        here = base_flops(model, traces[modules], tokens.length)
        here["adapter"] = adapter_flops(model, state, traces[modules], tokens, rank)
        for name, value in here.items():
            parts[name] = parts.get(name, 0.0) + share * value
        if end > state.first:
            parts["adapter"] += _merge_flops(model, state, state.merged - merged, rank) / max(tokens.tokens, 1)
            merged |= state.merged
    return parts


def run_states(
    events: Sequence[Event], ranks: dict[str, int], mergeable: frozenset[str] = frozenset()
) -> Iterator[State]:
    """The states of a run's adapter, from its events.

    Args:
        events: the run's.
        ranks: of the modules at the start.
        mergeable: modules that a plan which merges can merge once they are frozen.
    """
    start = next(event for event in events if event["type"] == "start")
    modules = {factor["name"]: factor["module"] for factor in start["factors"]}
    training = frozenset(factor["name"] for factor in start["factors"] if factor["trainable"])
    state = State(first=0, training=training, ranks=ranks, merged=frozenset())
    for event in events:
        if event["type"] == "freeze" or (event["type"] == "prune" and event["removed"]):
            # step t is still computed with what freezes or goes in it; from t + 1 on that work is gone
            if event["step"] + 1 > state.first:
                yield state
            training = state.training - frozenset(event.get("names", ()))
            merged = state.merged
            if event.get("folded"):
                merged |= mergeable - {modules[name] for name in training}
            ranks = {**state.ranks, **event.get("ranks", {})}
            state = State(first=event["step"] + 1, training=training, ranks=ranks, merged=merged)
    yield state


def _first_ranks(events: Sequence[Event], handles: dict[str, FactorParameter], rank: str) -> dict[str, int]:
    start = next(event for event in events if event["type"] == "start")
    ranks = {}
    for factor in start["factors"]:
        sizes = dict(zip(handles[factor["name"]].symbols, factor["shape"], strict=True))
        if rank in sizes:
            ranks[factor["module"]] = sizes[rank]
    return ranks


def _mergeable(handles: dict[str, FactorParameter]) -> frozenset[str]:
    layers = {handle.module: handle.home for handle in handles.values()}
    autocast = torch.is_autocast_enabled(next(iter(handles.values())).parameter.device.type)
    return frozenset(module for module, layer in layers.items() if not autocast and layer.can_merge("default"))


def _calls_in(
    state: State, model: nn.Module, head: Sequence[str], handles: dict[str, FactorParameter], tokens: Tokens
) -> list[Call]:
    parameters: dict[str, torch.Tensor] = {n: h.parameter for n, h in handles.items() if not h.shared}
    with training_only(parameters, set(state.training)), warnings.catch_warnings():
        # meant for a pass of training
        warnings.filterwarnings("ignore", message="policy bottom_up: gradients go on below")
        return calls(model, head, _whole(tokens.length))


def base_flops(model: nn.Module, model_calls: Sequence[Call], length: float) -> dict[str, float]:
    """The parts of a token's operations, without the adapter's, by the module's formula.

    Args:
        model: the model.
        model_calls: its calls for one row.
        length: mean padded length of a row.
    """
    size = _whole(length)
    body, head = [call for call in model_calls if not call.head], [call for call in model_calls if call.head]
    config: Any = model.config
    product = 2.0 * size * config.hidden_size * config.num_hidden_layers  # in all attentions, a token
    return {
        "base_forward": sum(call.work for call in body) / size + 2 * product,
        "base_input_grad": sum(call.work * call.input_grad for call in body) / size
        + product * attention_products(model_calls),
        "base_weight_grad": sum(call.work * call.weight_grad for call in body) / size,
        "adapter": 0.0,
        "head": sum(call.work + call.backward for call in head) / max(length, 1.0),
    }


def adapter_flops(model: nn.Module, state: State, model_calls: Sequence[Call], tokens: Tokens, rank: str) -> float:
    """The adapter's operations for one token."""
    first = {call.module: call for call in reversed(model_calls)}
    each_pass = tokens.tokens / max(tokens.passes, 1)
    total = 0.0
    for group in adapted_layers(model):
        call = first.get(next(iter(group)))
        if call is None:  # the model has no use for it
            continue
        read = max(1, round(each_pass * call.vectors / _whole(tokens.length)))
        layers = [_in_state(module, layer, state, rank) for module, layer in group.items()]
        total += pass_flops(layers, read, input_grad=call.input_grad)
    return total / max(each_pass, 1.0)


def _in_state(module: str, layer: Adapted, state: State, rank: str) -> Adapted:
    trains = frozenset(name for name in layer.spec.update.names if f"{module}.{name}" in state.training)
    sizes = {**layer.sizes, rank: state.ranks[module]}
    return layer.changed(sizes=sizes, trains=trains, merge_frozen=module in state.merged)


def _merge_flops(model: nn.Module, state: State, modules: frozenset[str], rank: str) -> int:
    """Operations of adding base and update of these modules up."""
    layers = [(m, layer) for group in adapted_layers(model) for m, layer in group.items() if m in modules]
    return sum(_in_state(module, layer, state, rank).merging() for module, layer in layers)


def _whole(length: float) -> int:
    return max(1, round(length))


@contextlib.contextmanager
def _as_in_training(settings: RunSettings, model: nn.Module) -> Iterator[None]:
    """Training mode, and autocast where the run has it."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = next((kind for name, kind in half.items() if settings.training.get(name)), None)
    device, was_training = next(model.parameters()).device.type, model.training
    model.train()
    try:
        with contextlib.nullcontext() if dtype is None else torch.autocast(device, dtype):
            yield
    finally:
        model.train(was_training)
