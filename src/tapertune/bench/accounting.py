r"""What a run cost in floating-point operations. A multiply and an add count as two.

For each row of ``L`` tokens, padding included (it is computed like any other), ``L`` being training's mean:

* **base forward**: ``2 * w`` for each vector that a linear layer of ``w`` weights reads (how many it reads is seen in
  one forward pass: ``L`` inside the body, 1 in a pooler), and ``4 * L * L * h`` for each self-attention of width ``h``
  (queries times keys, attention times values). Embeddings are look-ups and cost nothing.
* **base input gradient**: ``2 * w`` again, and ``8 * L * L * h`` for attention (two operands in each product), from the
  lowest layer in which something trains upward; that layer is counted whole. ``head`` has none.
* **base weight gradient**: ``2 * w`` for ``full``; nothing for what is frozen.
* **adapter**: ``Chain.flops_per_token`` as its kernel runs, with the factors that train in each step, taken from the
  run's events: a factor's work ends with its freezing, a rank's with its removal.
* **head**: ``6 * w`` a row.

Elementwise work (activations, norms, softmax, diagonals, the optimizer) is left out, as papers do. Layers are told
apart by the first number in a module's path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..events import Event
from ..host.naming import layer_index
from .quantized import weights
from .results import Flops
from .settings import BASELINES, RunSettings, adapter_config


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """How much a run read in training."""

    total: int
    rows: int

    @property
    def length(self) -> float:
        """Mean padded length of a row."""
        return self.total / self.rows if self.rows else 0.0


def base_flops(
    model: nn.Module, method: str, head: Sequence[str], length: float, lowest: int = 0
) -> tuple[float, float, float]:
    """(forward, input gradient, weight gradient) of the base model for one token, as the module's formula says.

    Args:
        model: the model, with or without an adapter in it.
        method: the run's method.
        head: names of the head's parameters, which are not counted here.
        length: mean padded length of a row.
        lowest: index of the lowest layer in which something trains.
    """
    size = max(1, round(length))
    works = _linear_work(model, head, size)
    config: Any = model.config
    attention = 4.0 * size * config.hidden_size  # a token and layer
    forward = sum(works.values()) / size + attention * config.num_hidden_layers
    if method == "head":
        return forward, 0.0, 0.0
    above = sum(work for name, work in works.items() if (index := layer_index(name)) is None or index >= lowest) / size
    back = above + 2 * attention * (config.num_hidden_layers - lowest)
    return forward, back, above if method == "full" else 0.0


def _linear_work(model: nn.Module, head: Sequence[str], length: int) -> dict[str, float]:
    """Forward operations of each linear layer of the base model for one row, as seen in a forward pass."""
    outside = {name.rpartition(".")[0] for name in head}
    works: dict[str, float] = {}

    def count(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            vectors = inputs[0].numel() // inputs[0].shape[-1]
            works[name] = works.get(name, 0.0) + 2.0 * weights(module) * vectors

        return hook

    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    hooks = [module.register_forward_hook(count(name)) for name, module in layers.items() if name not in outside]
    was_training = model.training
    model.eval()
    try:
        ids = torch.ones((1, length), dtype=torch.long, device=next(model.parameters()).device)
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return works


def run_flops(
    settings: RunSettings, model: nn.Module, head: Sequence[str], tokens: Tokens, events: Sequence[Event], steps: int
) -> Flops:
    """Operations of a whole training, and their parts for one token on average."""
    start = next(event for event in events if event["type"] == "start")
    method = settings.method.name
    lowest = min((f["layer"] for f in start["factors"] if f["trainable"] and f["layer"] is not None), default=0)
    forward, back, weight = base_flops(model, method, head, tokens.length, lowest)
    parts = {"base_forward": forward, "base_input_grad": back, "base_weight_grad": weight}
    if method not in BASELINES:
        parts["adapter"] = _adapter_flops(settings, start, events, steps)
    parts["head"] = 6.0 * sum(model.get_parameter(name).numel() for name in head) / max(tokens.length, 1.0)
    return Flops(total=sum(parts.values()) * tokens.total, per_token=parts)


def _adapter_flops(settings: RunSettings, start: Event, events: Sequence[Event], steps: int) -> float:
    """The adapter's operations for one token, averaged over the steps."""
    config = adapter_config(settings)
    chain, rank = config.row.chain(config.settings()), config.row.rank
    factors: dict[str, dict[str, str]] = {}
    sizes: dict[str, dict[str, int]] = {}
    for factor in start["factors"]:
        factors.setdefault(factor["module"], {})[factor["factor"]] = factor["name"]
        symbols = chain[factor["factor"]].symbols
        sizes.setdefault(factor["module"], {}).update(zip(symbols, factor["shape"], strict=True))
    frozen = {factor["name"] for factor in start["factors"] if not factor["trainable"]}

    def one_token() -> float:
        total = 0.0
        for module, names in factors.items():
            trains = [factor for factor, name in names.items() if name not in frozen]
            total += chain.flops_per_token(sizes[module], trains, form="folded").total
        return total

    total, since = 0.0, 0
    for event in events:
        if event["type"] == "freeze" or (event["type"] == "prune" and event["removed"]):
            # Step t is still computed with what freezes or goes in it; from t + 1 on that work is gone.
            total += (event["step"] + 1 - since) * one_token()
            since = event["step"] + 1
            frozen.update(event.get("names", ()))
            for module, left in event.get("ranks", {}).items():
                sizes[module][rank] = left
    total += (steps - since) * one_token()
    return total / steps if steps else 0.0
