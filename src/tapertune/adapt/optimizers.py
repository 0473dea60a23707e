"""Optimizers of every kind, as decisions meet them: one, several, or some inside another, with what each keeps for a
factor in ``state`` or elsewhere.

What has the factor's shape is cut with it. What has not (factored moments, preconditioners, objects) starts anew. What
an optimizer keeps outside its ``state`` can be cut only where it is plain which factor it belongs to.
"""

from __future__ import annotations

import types
import warnings
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_OWN = ("state", "param_groups", "defaults")
_DEEP = 6  # containers inside containers that are looked into
_told: weakref.WeakSet[Any] = weakref.WeakSet()
_seen: weakref.WeakSet[Optimizer] = weakref.WeakSet()


class Cut(NamedTuple):
    """What stays of a parameter: some indices along an axis."""

    parameter: nn.Parameter
    axis: int
    kept: Tensor

    def of(self, tensor: Tensor) -> Tensor:
        return tensor.index_select(self.axis, self.kept.to(tensor.device))


def is_optimizer(value: Any) -> bool:
    """Whether something steps on parameters: torch's kind, or an object of the same form."""
    if isinstance(value, type | nn.Module):
        return False
    return isinstance(value, Optimizer) or (
        callable(getattr(value, "step", None)) and getattr(value, "param_groups", None) is not None
    )


def members(optimizer: Any) -> list[Any]:
    """An optimizer and those that it holds, however deep."""
    found: list[Any] = []
    waiting = [optimizer]
    while waiting:
        one = waiting.pop(0)
        if not any(one is other for other in found):
            found.append(one)
            held = (value for name, value in getattr(one, "__dict__", {}).items() if name not in _OWN)
            waiting += [v for value in held for v in _unpacked(value) if is_optimizer(v)]
    return found


def _unpacked(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else (value,)


def groups(optimizer: Any) -> list[dict[str, Any]]:
    """The parameter groups of an optimizer and of those that it holds; the same group once."""
    found = {id(group): group for one in members(optimizer) for group in getattr(one, "param_groups", ())}
    return list(found.values())


def steps_on(optimizer: Any, parameters: Sequence[Tensor]) -> bool:
    """Whether an optimizer steps on any of these parameters; on none at all, any does."""
    given = {id(parameter) for group in groups(optimizer) for parameter in group["params"]}
    return not parameters or any(id(parameter) in given for parameter in parameters)


def note_step(optimizer: Optimizer) -> None:
    """Notes that an optimizer steps."""
    _seen.add(optimizer)


def relatives(optimizer: Any, parameters: Collection[Tensor]) -> list[Any]:
    """The optimizers that may know these parameters: one, those that it holds, and any other that steps on them."""
    wanted = {id(parameter) for parameter in parameters}
    found = members(optimizer)
    for other in list(_seen):
        if not any(other is one for one in found) and any(
            id(p) in wanted for group in other.param_groups for p in group["params"]
        ):
            found.append(other)
    return found


# ---- state by parameter ----------------------------------------------------------------------------------------------


def forget(optimizer: Any, parameters: Collection[Tensor]) -> None:
    """Drops the state of parameters that train no more."""
    for one in relatives(optimizer, parameters):
        state = getattr(one, "state", None)
        if isinstance(state, MutableMapping):
            for parameter in parameters:
                state.pop(parameter, None)


def cut_state(optimizer: Any, cuts: Sequence[Cut]) -> None:
    """Cuts what optimizers know of parameters that are about to be cut; says once what has to start anew."""
    found = relatives(optimizer, [cut.parameter for cut in cuts])
    for cut, tensor in _elsewhere(found, cuts):
        tensor.data = cut.of(tensor.data)
    for one in found:
        state = getattr(one, "state", None)
        if isinstance(state, MutableMapping):
            _cut_mapping(one, state, cuts)


def _cut_mapping(optimizer: Any, state: MutableMapping[Any, Any], cuts: Sequence[Cut]) -> None:
    elementwise = _elementwise(optimizer, state)
    lost: dict[str, None] = {}
    for cut in cuts:
        own = state.get(cut.parameter)
        if not own:
            continue
        values = own if isinstance(own, MutableMapping) else {"state": own}
        shaped = [key for key in values if key in elementwise and values[key].shape == cut.parameter.shape]
        rest = [key for key in values if key not in shaped and not _is_plain(values[key])]
        if rest:
            del state[cut.parameter]
            lost.update(dict.fromkeys(map(str, rest)))
        else:
            values.update({key: cut.of(values[key]) for key in shaped})
    if lost and optimizer not in _told:
        _told.add(optimizer)
        warnings.warn(
            f"ranks are gone from factors of which the optimizer ({type(optimizer).__name__}) keeps what cannot be cut "
            f"({', '.join(lost)}): its state for them starts anew",
            stacklevel=2,
        )


def _elementwise(optimizer: Any, state: Mapping[Any, Any]) -> set[str]:
    """Names in the state of tensors that hold a number for each element of their parameter.

    A square tensor of a square parameter may be a preconditioner as well: it takes another parameter to tell.
    """
    good: set[str] = set()
    bad: set[str] = set()
    known = type(optimizer).__module__.startswith("torch.optim")
    for parameter, own in state.items():
        if isinstance(parameter, Tensor) and isinstance(own, Mapping):
            for key, value in own.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    if known or len(set(parameter.shape)) == parameter.dim():
                        good.add(key)
                elif not _is_plain(value):
                    bad.add(key)
    return good - bad


def _is_plain(value: Any) -> bool:
    """Whether a value is independent of its parameter's shape: a number, a name, a tensor of one element."""
    if isinstance(value, Tensor):
        return value.numel() == 1
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str | torch.dtype)


# ---- what lies elsewhere ---------------------------------------------------------------------------------------------


def uncuttable(optimizer: Any, cuts: Sequence[Cut]) -> str | None:
    """Where an optimizer keeps tensors that are sized as what is to be cut but cannot be told to belong to one
    parameter, or None."""
    ranks = {cut.parameter.shape[cut.axis] for cut in cuts}
    found = relatives(optimizer, [cut.parameter for cut in cuts])
    known = _in_states(found)
    for one in found:
        totals = [sum(p.numel() for p in group["params"]) for group in getattr(one, "param_groups", ())]
        sizes = {*ranks, *totals, sum(totals)} | {cut.parameter.numel() for cut in cuts}
        for name, owner, tensor in _stray(one):
            if owner is None and id(tensor) not in known and not sizes.isdisjoint((*tensor.shape, tensor.numel())):
                return f"{type(one).__name__}.{name}"
    return None


def keeps_copies(optimizer: Any) -> bool:
    """Whether something may move parameters without a gradient, as slow weights do: an optimizer around another, or
    one with tensors outside of its state."""
    return len(members(optimizer)) > 1 or any(True for _ in _stray(optimizer))


def _elsewhere(optimizers: Sequence[Any], cuts: Sequence[Cut]) -> list[tuple[Cut, Tensor]]:
    """What optimizers keep outside of their states for parameters that are about to be cut."""
    by_parameter, known = {id(cut.parameter): cut for cut in cuts}, _in_states(optimizers)
    hits = {id(t): (by_parameter.get(id(p)), t) for one in optimizers for _, p, t in _stray(one) if p is not None}
    return [(cut, tensor) for key, (cut, tensor) in hits.items() if cut is not None and key not in known]


def _in_states(optimizers: Sequence[Any]) -> set[int]:
    """Identities of the tensors in the parameters' states: wrappers hold on to a state of the optimizer inside."""
    states = {id(state): state for state in (getattr(one, "state", None) for one in optimizers)}
    pairs = [pair for state in states.values() if isinstance(state, Mapping) for pair in state.items()]
    parts = [own for parameter, own in pairs if isinstance(parameter, Tensor) and isinstance(own, Mapping)]
    return {id(value) for own in parts for value in own.values()}


def _stray(optimizer: Any) -> Iterator[tuple[str, Tensor | None, Tensor]]:
    """The tensors that an optimizer keeps outside of its parameters' states: (where, the parameter each belongs to or
    None, the tensor)."""
    own_groups: list[dict[str, Any]] = list(getattr(optimizer, "param_groups", ()))
    lists: list[list[Tensor]] = [list(group["params"]) for group in own_groups]
    lists.append([parameter for group in lists for parameter in group])
    skip = {id(parameter) for parameter in lists[-1]}
    state = getattr(optimizer, "state", None)
    common = {k: v for k, v in state.items() if not isinstance(k, Tensor)} if isinstance(state, Mapping) else {}
    own: dict[Any, Any] = {k: v for k, v in getattr(optimizer, "__dict__", {}).items() if k not in _OWN}
    for name, value in {**own, **common}.items():
        yield from ((str(name), *hit) for hit in _tensors(value, lists, skip, _DEEP))
    for group, parameters in zip(own_groups, lists, strict=False):
        for name, value in group.items():
            if name != "params":
                yield from ((name, *hit) for hit in _tensors(value, [parameters], skip, _DEEP))


def _tensors(
    value: Any, lists: list[list[Tensor]], skip: set[int], deep: int
) -> Iterator[tuple[Tensor | None, Tensor]]:
    """The tensors in a value with their parameters. A list of tensors shaped as a list of parameters is theirs, and so
    is what a parameter, or its identity, is the key of."""
    if isinstance(value, Tensor):
        if value.numel() > 1 and id(value) not in skip:
            yield None, value
    elif deep and isinstance(value, Mapping):
        parameters = {id(p): p for p in lists[-1]}
        for key, part in value.items():
            owner = parameters.get(key if isinstance(key, int) else id(key))
            found = _tensors(part, lists, skip, deep - 1)
            yield from found if owner is None else ((owner if t.shape == owner.shape else None, t) for _, t in found)
    elif deep and isinstance(value, list | tuple):
        owners = next((own for own in lists if _alike(value, own)), None)
        if owners is not None:
            yield from ((owner, part) for owner, part in zip(owners, value, strict=True) if id(part) not in skip)
            return
        for i, part in enumerate(value):
            nested = len(value) == len(lists) - 1 and isinstance(part, list | tuple)  # a list for each group
            yield from _tensors(part, [lists[i], *lists] if nested else lists, skip, deep - 1)
    elif deep and _is_object(value):
        yield from _tensors(vars(value), lists, skip, deep - 1)


def _alike(value: Sequence[Any], parameters: Sequence[Tensor]) -> bool:
    return 0 < len(value) == len(parameters) and all(
        isinstance(part, Tensor) and part.shape == parameter.shape
        for part, parameter in zip(value, parameters, strict=True)
    )


def _is_object(value: Any) -> bool:
    kinds = (type, nn.Module, types.FunctionType, types.MethodType, types.ModuleType, weakref.ref)
    return hasattr(value, "__dict__") and not isinstance(value, kinds) and not is_optimizer(value)


class Stillness:
    """Holds frozen parameters where they are, under optimizers that move parameters without a gradient."""

    def __init__(self) -> None:
        self._values: list[tuple[nn.Parameter, Tensor]] = []

    @torch.no_grad()
    def restore(self) -> None:
        for parameter, value in self._values:
            if value.shape == parameter.shape:
                parameter.copy_(value)

    def take(self, parameters: Iterable[nn.Parameter]) -> None:
        """Holds these parameters, and no others, at their present values."""
        self._values = [(parameter, parameter.detach().clone()) for parameter in parameters]
