"""What one row takes in a model's layers with a matrix, and where gradients go: as seen in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..host import ChainLayer
from ..host.module_names import ROOT, layer_path
from ..host.widths import CONVOLUTIONS
from .weights import LAYERS, weights


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a layer.

    Attributes:
        module: the layer's path in the base model.
        work: operations of its forward pass, the adapter's left out.
        vectors: how many it reads.
        source: which input it reads: calls with one tensor have one number.
        input_grad, output_grad: whether its input and its output ask for a gradient.
        weight_grad: whether its own matrix does.
        head: whether it is one of the head's.
    """

    module: str
    work: float
    vectors: int
    source: int
    input_grad: bool
    output_grad: bool
    weight_grad: bool
    head: bool

    @property
    def backward(self) -> float:
        """Operations of its backward pass."""
        return self.work * (self.input_grad + self.weight_grad)


def calls(model: nn.Module, head: Sequence[str], length: int) -> list[Call]:
    """The calls in a forward pass of a row, in order.

    Args:
        model: the model, with or without an adapter in it, and with that training which trains.
        head: names of the head's parameters.
        length: of the row, in tokens.
    """
    outside = {name.rpartition(".")[0] for name in head}
    model_calls: list[Call] = []
    sources: list[Tensor] = []  # held, so that no two have one identity

    def hook_of(name: str, layer: nn.Module) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            x = inputs[0]
            source = next((i for i, known in enumerate(sources) if known is x), len(sources))
            if source == len(sources):
                sources.append(x)
            vectors = _vectors(layer, x, output)
            model_calls.append(
                Call(
                    module=module.module_path if isinstance(module, ChainLayer) else name.removeprefix(ROOT),
                    work=2.0 * weights(layer) * vectors,
                    vectors=vectors,
                    source=source,
                    input_grad=x.requires_grad,
                    output_grad=_first(output).requires_grad,
                    weight_grad=next(layer.parameters()).requires_grad,
                    head=name in outside,
                )
            )

        return hook

    hooks = [module.register_forward_hook(hook_of(name, layer)) for name, module, layer in _linear_layers(model)]
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            model(**_row(model, length))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return model_calls


def _first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _vectors(layer: nn.Module, x: Tensor, output: Any) -> int:
    """How many vectors a layer makes: a token's, or one for each position of a convolution."""
    if isinstance(layer, nn.Embedding):
        return x.numel()
    if isinstance(layer, CONVOLUTIONS):
        return output.numel() // layer.out_channels
    return x.numel() // x.shape[-1]


def _row(model: nn.Module, length: int) -> dict[str, Tensor]:
    """A row that any model reads. An encoder-decoder's decoder reads as many tokens as its encoder."""
    config: Any = model.config
    decodes = bool(getattr(config, "is_encoder_decoder", False))
    # these models' classifiers look for the end token
    token = config.eos_token_id if decodes and isinstance(config.eos_token_id, int) else 1
    ids = torch.full((1, length), token, dtype=torch.long, device=next(model.parameters()).device)
    # without storage nobody can look whether a mask hides something
    row = {"input_ids": ids} if ids.is_meta else {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {**row, "decoder_input_ids": ids} if decodes else row


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """(path, what is called, the layer that holds the weight)."""
    inside = {id(module.get_base_layer()) for module in model.modules() if isinstance(module, ChainLayer)}
    for name, module in model.named_modules():
        if isinstance(module, ChainLayer):
            yield name, module, module.get_base_layer()
        elif isinstance(module, LAYERS) and id(module) not in inside:
            yield name, module, module


def attention_products(model_calls: Sequence[Call]) -> float:
    """Of the four products in the backward pass of an attention (gradients of queries, keys, values and of the
    attention's weights), how many are taken: a mean over the layers.

    In each layer, the calls that read what the first one reads are taken for queries, keys and values in this order, or
    for all of them in one.
    """
    layers: dict[str, list[Call]] = {}
    for call in model_calls:
        if not call.head and (layer := layer_path(call.module)) is not None:
            layers.setdefault(layer, []).append(call)
    counts = []
    for inside in layers.values():
        grads = [call.output_grad for call in inside if call.source == inside[0].source]
        query, key, value = grads if len(grads) == 3 else [any(grads)] * 3
        counts.append(query + key + value + (query or key))
    return sum(counts) / len(counts) if counts else 0.0


@contextmanager
def training_only(parameters: dict[str, Tensor], names: set[str]) -> Iterator[None]:
    """Of some parameters by name, has the named ones ask for gradients and no others."""
    before = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in names)
        yield
    finally:
        for name, flag in before.items():
            parameters[name].requires_grad_(flag)
