"""A device that is not the processor, for machines that have none: what it does is done by the processor, but its
tensors must not meet the processor's, and whatever waits for it is counted.

Of a GPU it has the rules: operands lie together, and the values that Python looks at, or that decide a result's shape,
have to be fetched. It is registered in torch for good, so it belongs in a process of its own.
"""

from __future__ import annotations

import collections
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "away"
_aten: Any = torch.ops.aten
_FETCHED = {
    _aten._local_scalar_dense.default, _aten.is_nonzero.default, _aten.equal.default, _aten.nonzero.default,
    _aten.masked_select.default, _aten._unique2.default, _aten.repeat_interleave.Tensor,
}  # fmt: skip
_MOVES = {_aten._to_copy.default, _aten.copy_.default}


def register() -> None:
    """Makes the device known to torch."""
    known: Any = backend_registration
    module = known._DummyBackendModule()
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    known._setup_privateuseone_for_python_backend(NAME, backend_module=module)


class Away(Tensor):
    """A tensor of the device, around the one that holds its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Away:
        make: Any = Tensor._make_wrapper_subclass  # pyright: ignore[reportAttributeAccessIssue]
        like = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        return make(cls, held.shape, **like, device=torch.device(NAME, 0))

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"Away({self.held!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.tolist, Tensor.numpy):
            TRAFFIC["fetched"] += 1
            return func(args[0].held.detach())
        result = torch._C._disabled_torch_function_impl(func, types, args, kwargs or {})
        if func == _set_data:  # made anew at each look-up
            args[0].held = args[1].held
        return result

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


_set_data: Any = Tensor.data.__set__  # pyright: ignore[reportAttributeAccessIssue]

TRAFFIC: collections.Counter[str] = collections.Counter()
"""How often something was ``fetched`` from the device or ``sent`` to it."""


class Device(TorchDispatchMode):
    """In whose scope the device can be asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    away = [t for t in tensors if isinstance(t, Away)]
    device = kwargs.get("device")
    if func is _aten.copy_.default:
        to_away = isinstance(args[0], Away)
    else:
        to_away = bool(away) if device is None else torch.device(device).type == NAME
    if func in _MOVES and len(away) != len(tensors) * to_away:
        TRAFFIC["sent" if to_away else "fetched"] += 1
    elif away and func not in _MOVES:
        near = [tuple(t.shape) for t in tensors if not isinstance(t, Away) and t.dim()]
        if near:
            raise RuntimeError(f"{func}: tensors of the processor, {near}, among {len(away)} of the device")
        masks = func is _aten.index.Tensor and any(t is not None and t.dtype == torch.bool for t in args[1])
        TRAFFIC["fetched"] += func in _FETCHED or masks
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    made = func(*tree_map_only(Away, _held, args), **tree_map_only(Away, _held, kwargs))
    known = {id(t.held): t for t in away}  # an operation in place gives back what it was given
    return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else Away(t) if to_away else t, made)


def _held(tensor: Away) -> Tensor:
    return tensor.held
