"""A weight with updates beside it, as the code of a model reads it.

Modules that hold matrices in parameters (experts, routers) multiply with them in code of their own. They are given a
tensor that stands for ``W + s * update`` and looks like W: a product of an input with it, or with one of its matrices,
is computed as that of W and, beside it, that of the update, so that the sum is never made. Whatever else is done with
it is done with the sum. The products of transformers' ``grouped_mm`` and ``eager`` experts, and stacked ones (``bmm``),
are known; ``batched_mm`` picks matrices row by row, and gets the sums of those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..methods.mapped import MappedChain
from .dense import dense
from .grouped import StackedUpdate, groups

Handler = Callable[..., Any]


class AdaptedWeight(Tensor):
    """Stands for a weight with updates. Made by ``adapted_weight``; lives for one pass.

    Attributes:
        base: the weight, a matrix or a stack of them, as it is stored.
        updates: of one adapter each.
        transposed: whether ``base`` is stored (d_in, d_out).
        mirrored: whether this reads as ``base.mT``.
        place: which matrix of the stack this is; None for all.
    """

    base: Tensor
    updates: Sequence[StackedUpdate]
    transposed: bool
    mirrored: bool
    place: int | None

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        handler = _HANDLERS.get(func) or (_grouped if "grouped_mm" in _name(func) else None)
        if handler is not None:
            result = handler(func, *args, **kwargs)
            if result is not NotImplemented:
                return result
        if func in _OF_THE_BASE or (_name(func) == "__get__" and func not in _VALUES):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        plain = {name: _summed(value) for name, value in kwargs.items()}
        return func(*(_summed(value) for value in args), **plain)

    @property
    def matrix_form(self) -> Tensor:
        """The base as (..., d_out, d_in)."""
        return self.base.mT if self.transposed else self.base

    @property
    def reads_input_first(self) -> bool:
        """Whether this reads as (..., d_in, d_out)."""
        return self.transposed is not self.mirrored


def adapted_weight(weight: Tensor, updates: Sequence[StackedUpdate], *, transposed: bool = False) -> AdaptedWeight:
    """
    Args:
        weight: a matrix, or a stack of them along a first axis.
        updates: of one adapter each, of as many matrices.
        transposed: whether the matrices are stored (d_in, d_out).
    """
    return _view(weight, weight, updates, transposed, mirrored=False, place=0 if weight.dim() == 2 else None)


def summed_weight(weight: Tensor, updates: Sequence[StackedUpdate], *, transposed: bool = False) -> Tensor:
    """The sum, in the dtype of the weight; arguments as for ``adapted_weight``."""
    for update in updates:
        delta = update.delta()
        delta = delta[0] if weight.dim() == 2 else delta
        weight = weight + (delta.mT if transposed else delta).to(weight.dtype)
    return weight


def _view(
    like: Tensor, base: Tensor, updates: Sequence[StackedUpdate], transposed: bool, mirrored: bool, place: int | None
) -> AdaptedWeight:
    with torch._C.DisableTorchFunctionSubclass():
        view = cast(AdaptedWeight, Tensor._make_subclass(AdaptedWeight, like.detach()))
    view.base, view.updates, view.transposed, view.mirrored, view.place = base, updates, transposed, mirrored, place
    return view


def _summed(value: Any) -> Any:
    """The sum in the place of what stands for it."""
    if isinstance(value, list | tuple):
        return type(value)(map(_summed, value))
    if not isinstance(value, AdaptedWeight):
        return value
    if value.place is None or (value.base.dim() == 2 and value.updates[0].count == 1):
        total = summed_weight(value.base, value.updates, transposed=value.transposed)
    else:
        total = _chosen(value.base.unsqueeze(0), value, [value.place])[0]
    return total.mT if value.mirrored else total


def _chosen(base: Tensor, weight: AdaptedWeight, among: Sequence[int]) -> Tensor:
    """The sums of some matrices of the stack, whose base weights are given."""
    for update in weight.updates:
        delta = update.delta(among)
        base = base + (delta.mT if weight.transposed else delta).to(base.dtype)
    return base


# ---- what is done with a weight --------------------------------------------------------------------------------------


def _item(func: Any, weight: Any, index: Any) -> Any:
    if not isinstance(weight, AdaptedWeight) or weight.place is not None:
        return NotImplemented
    single = isinstance(index, int) or (isinstance(index, Tensor) and index.dim() == 0 and index.dtype != torch.bool)
    if single:
        index = int(index)
        with torch._C.DisableTorchFunctionSubclass():
            like = func(weight, index)
        base = weight.base[index]
        place = index % weight.base.shape[0]
        return _view(like, base, weight.updates, weight.transposed, weight.mirrored, place)
    if isinstance(index, Tensor) and index.dim() == 1 and index.dtype in (torch.int64, torch.int32):
        among, places = index.unique(return_inverse=True)
        total = _chosen(weight.base[among], weight, among.tolist())[places]
        return total.mT if weight.mirrored else total
    return NotImplemented


def _transpose(func: Any, weight: Any, *axes: Any, **names: Any) -> Any:
    if not isinstance(weight, AdaptedWeight):
        return NotImplemented
    with torch._C.DisableTorchFunctionSubclass():
        dims = weight.dim()
        last_two = {axis % dims for axis in (*axes, *names.values())} == {dims - 2, dims - 1}
        if not (last_two or func is _MT or (dims == 2 and not axes)):
            return NotImplemented
        like = weight.detach().mT
    return _view(like, weight.base, weight.updates, weight.transposed, not weight.mirrored, weight.place)


def _linear(func: Any, input: Any, weight: Any, bias: Any = None) -> Any:
    if not isinstance(weight, AdaptedWeight) or weight.place is None or weight.reads_input_first:
        return NotImplemented
    return _with_updates(_plain(input), weight, None if bias is None else _plain(bias))


def _matmul(func: Any, input: Any, other: Any, **options: Any) -> Any:
    if not isinstance(other, AdaptedWeight) or options or not other.reads_input_first:
        return NotImplemented
    x = _plain(input)
    if other.place is not None:
        return _with_updates(x, other, None) if x.dim() > 1 else NotImplemented
    if x.dim() != 3:
        return NotImplemented
    y = x @ other.matrix_form.mT
    for update in other.updates:
        y = y + update.batched(x).to(y.dtype)
    return y


def _grouped(func: Any, input: Any, weight: Any, offs: Any = None, *rest: Any, **options: Any) -> Any:
    extra = rest or [value for value in options.values() if value is not None]
    if not isinstance(weight, AdaptedWeight) or weight.place is not None or offs is None or extra:
        return NotImplemented
    x = _plain(input)
    if x.dim() != 2 or not weight.reads_input_first:
        return NotImplemented
    alone = weight.updates[0]
    if len(weight.updates) == 1 and _is_dense(x, weight, alone):
        parts = [_dense(x[a:b], weight.matrix_form[i], None, alone, i) for i, a, b in groups(offs)]
        rows = x.shape[0] - sum(part.shape[0] for part in parts)
        return torch.cat([*parts, x.new_zeros(rows, weight.matrix_form.shape[-2])])
    y = func(x, weight.matrix_form.mT, offs=offs)
    for update in weight.updates:
        y = y + update.grouped(x, offs).to(y.dtype)
    return y


def _with_updates(x: Tensor, weight: AdaptedWeight, bias: Tensor | None) -> Tensor:
    index = cast(int, weight.place)
    if len(weight.updates) == 1 and _is_dense(x, weight, weight.updates[0]):
        return _dense(x, weight.matrix_form, bias, weight.updates[0], index)
    y = F.linear(x, weight.matrix_form, bias)
    for update in weight.updates:
        y = y + update.one(index, x).to(y.dtype)
    return y


def _is_dense(x: Tensor, weight: AdaptedWeight, update: StackedUpdate) -> bool:
    """Whether a mapped chain and its base are one node, which keeps nothing of the weight's size."""
    if update.update.linear or update.dropout is not None or weight.base.requires_grad:
        return False
    return x.dtype == weight.base.dtype and x.numel() > 0 and not torch.is_autocast_enabled(x.device.type)


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None, update: StackedUpdate, index: int) -> Tensor:
    return dense(cast(MappedChain, update.update), x, weight, bias, update.tensors(index), update.scaling)


def _plain(value: Any) -> Tensor:
    return cast(Tensor, _summed(value))


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", func))


_T, _MT, _H, _MH, _DATA = (cast(Any, one).__get__ for one in (Tensor.T, Tensor.mT, Tensor.H, Tensor.mH, Tensor.data))
_VALUES = frozenset({_T, _MT, _H, _MH, _DATA})  # attributes that are values, where others describe
_TRANSPOSING = (Tensor.transpose, torch.transpose, Tensor.swapaxes, Tensor.swapdims, Tensor.t, _T, _MT)
_HANDLERS: dict[Any, Handler] = {
    Tensor.__getitem__: _item,
    F.linear: _linear,
    **dict.fromkeys(_TRANSPOSING, _transpose),
    **dict.fromkeys(
        (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.bmm, Tensor.bmm), _matmul
    ),
}
_OF_THE_BASE = frozenset(
    {
        Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.nelement, Tensor.stride, Tensor.data_ptr,
        Tensor.is_contiguous, Tensor.element_size, Tensor.is_floating_point, torch.is_floating_point, Tensor.is_complex,
        torch.is_complex, torch.numel, Tensor.__len__, Tensor.get_device, Tensor.storage_offset, Tensor.untyped_storage,
    }
)  # fmt: skip
