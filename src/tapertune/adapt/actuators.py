"""What a decision does to the model and to the optimizer: freezing and pruning that free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .optimizers import forget, members
from .parameter import Handle
from .sharding import gather, is_sharded, put


def freeze(handles: Iterable[Handle], optimizer: Any | None, *, keep_requires_grad: bool = False) -> None:
    """Freezes factors and frees what their training took: gradient and optimizer state.

    Args:
        handles: of the factors.
        optimizer: whose state for them is dropped, and that of others that step on them.
        keep_requires_grad: leaves the flag on. Needed under ``DistributedDataParallel``, whose reducer expects the
            parameters that it was built with: until it is built anew, the controller drops their gradients before each
            step instead.
    """
    parameters = []
    for handle in handles:
        parameter = handle.parameter
        handle.freeze()
        if keep_requires_grad:
            parameter.requires_grad_(True)
        parameter.grad = None
        parameters.append(parameter)
    if optimizer is not None and parameters:
        forget(optimizer, parameters)


@torch.no_grad()
def mask(gates: Sequence[nn.Parameter], keep: Sequence[Tensor]) -> None:
    """Sets the gates' elements that are not kept to zero. They may come back as long as they are there."""
    flat = _read(gates)
    _write(gates, flat.masked_fill_(~torch.cat([k.to(flat.device) for k in keep]), 0))


@torch.no_grad()
def shrink(gates: Sequence[nn.Parameter], threshold: float, form: str) -> None:
    """One proximal step of ``threshold * |g|``: ``sign(g) max(|g| - threshold, 0)``.

    ``form="released"`` repeats SoRA's code instead: three assignments in a row, each seeing the one before, so that
    elements below twice the threshold become zero and one that equals the threshold stays.
    """
    value = _read(gates)
    if form == "soft":
        value = value.sign() * (value.abs() - threshold).clamp_min(0)
    else:
        value = torch.where(value > threshold, value - threshold, value)
        value = torch.where(value < -threshold, value + threshold, value)
        value = value.masked_fill(value.abs() < threshold, 0)
    _write(gates, value)


def _read(gates: Sequence[nn.Parameter]) -> Tensor:
    """All gates in one new tensor."""
    return torch.cat([gate.to(gates[0].device) for gate in gather(gates)])


def _write(gates: Sequence[nn.Parameter], flat: Tensor) -> None:
    parts = flat.split([gate.numel() for gate in gates])
    if not any(map(is_sharded, gates)):
        cast(Any, torch)._foreach_copy_(list(gates), parts)
        return
    for gate, part in zip(gates, parts, strict=True):
        put(gate, part)


def set_data(parameter: nn.Parameter, data: torch.Tensor) -> None:
    """``parameter.data = data`` for data of another shape.

    A graph that is still alive (a loop that holds its last loss, say) keeps the parameter's gradient accumulator, made
    for the old shape. Data of another dtype makes autograd forget it; data of another shape alone does not.
    """
    other = torch.float32 if data.dtype != torch.float32 else torch.float64
    parameter.data = data.to(other)
    parameter.data = data


@torch.no_grad()
def take(parameter: nn.Parameter, axis: int, index: torch.Tensor) -> None:
    """Cuts a parameter down to some indices along an axis, and its gradient with it.

    The Parameter object stays the same, so that the optimizer, and whoever else holds it, goes on with it.
    """
    grad, index = parameter.grad, index.to(parameter.device)
    parameter.grad = None
    set_data(parameter, parameter.data.index_select(axis, index))
    if grad is not None:  # where a plan decides before the optimizer's step, what stays takes that step
        parameter.grad = grad.index_select(axis, index)


def optimizer_bytes(optimizer: Optimizer) -> int:
    """Bytes that the state of an optimizer, and of those that it holds, takes now."""
    states = {id(state): state for state in (getattr(one, "state", None) or {} for one in members(optimizer))}
    tensors = (value for state in states.values() for own in state.values() for value in _tensors(own))
    return sum(value.numel() * value.element_size() for value in tensors)


def _tensors(state: Any) -> Iterable[torch.Tensor]:
    values = state.values() if isinstance(state, dict) else [state]
    return (value for value in values if isinstance(value, torch.Tensor))
