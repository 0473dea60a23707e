"""What a step keeps for backward, computes and calls. Exact: the same wherever and whenever it is counted.

What is kept is read from the autograd graph itself. The usual way, hooks on saved tensors, changes what it looks at:
kernels that rebuild their inputs step aside while such hooks are active.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..adapt import optimizer_bytes
from ..cost.adapted_layers import adapted_layers
from ..host.factor_modules import SharedWeight
from ..kernels import pass_flops
from .candidate import Candidate
from .schema import Counts


def count(candidate: Candidate) -> Counts:
    """Counts one step of a candidate, which takes it."""
    loss = candidate.loss()
    nodes = list(graph_nodes(loss))
    saved = saved_storages(nodes, skip=_storages(_weights(candidate.model)))
    kernels = sum(_is_kernel(node) for node in nodes)
    del loss, nodes
    with _uncompiled(), FlopCounterMode(display=False) as counter:
        candidate.loss().backward()
    candidate.finish_step()
    return Counts(
        saved_bytes=sum(saved.values()),
        flops=counter.get_total_flops(),
        flops_declared=declared_flops(candidate),
        kernel_nodes=kernels,
        trained=sum(p.numel() for p in candidate.trained()),
        optimizer_bytes=0 if candidate.optimizer is None else optimizer_bytes(candidate.optimizer),
    )


def _uncompiled() -> AbstractContextManager[Any]:
    """torch.compile looks the other way: what it makes of a step that is looked on, it would go by from then on."""
    stance = getattr(torch.compiler, "set_stance", None)  # from torch 2.6 on
    return nullcontext() if stance is None else stance("force_eager")


def declared_flops(candidate: Candidate) -> int | None:
    """Matrix operations that the adapter is declared to take in a step; None without a chain."""
    if candidate.controller is None:
        return None
    tokens = candidate.batch["input_ids"].numel()
    # the embeddings ask for a gradient, and so does every layer's input
    groups = adapted_layers(candidate.model)
    return sum(pass_flops(list(group.values()), tokens, input_grad=True) for group in groups)


def graph_nodes(loss: Tensor) -> Iterator[Any]:
    """Every node of a loss's graph once."""
    # the nodes are held, as autograd makes their Python faces anew when nobody does
    visited: set[Any] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        waiting.extend(following for following, _ in node.next_functions)
        yield node


def saved_storages(nodes: Iterable[Any], skip: set[int]) -> dict[int, int]:
    """Bytes of each storage that the nodes hold, by its address; those at the addresses to skip are left out."""
    # without single numbers: autograd shows a Python number as a tensor that it makes when it is asked
    held = [tensor for node in nodes for tensor in _held(node) if tensor.dim()]
    sizes = {s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in held)}
    return {place: size for place, size in sizes.items() if place not in skip}


def _held(node: Any) -> Iterator[Tensor]:
    for name in _saved_names(type(node)):
        yield from _tensors(getattr(node, name))
    if hasattr(node, "saved_tensors"):  # of a function written in Python, which may also hold things by itself
        yield from _tensors(node.saved_tensors)
        yield from _tensors(vars(node))


@functools.cache
def _saved_names(kind: type) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_saved_"))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a value: in containers, and in what functions have closed over."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, functools.partial):
        yield from _tensors([value.func, *value.args, value.keywords])
    elif isinstance(value, types.FunctionType):
        yield from _tensors([cell.cell_contents for cell in value.__closure__ or ()])


def _is_kernel(node: Any) -> bool:
    forward = getattr(type(node), "_forward_cls", None)
    return forward is not None and forward.__module__.startswith("tapertune.kernels")


def _weights(model: torch.nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        if isinstance(module, SharedWeight):
            yield module.weight


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}
