"""Which way an adapted layer is computed, and what that takes: one choice, for running a layer and for counting it.

``choose`` is pure: it sees a layer in numbers (``Spec``) and a call in numbers (``Call``). ``run`` follows its answer,
and ``flops`` counts what follows from it: products of matrices as ``torch.utils.flop_counter`` counts them, beyond
those of the base layer. Products of a matrix with a vector and elementwise work are left out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..methods import Chain, Update
from ..methods.base import Tensors
from .forms import Form, Work, cheapest, few, goes_by_token
from .selection import FUSED_KERNELS, kernel_name
from .update_flops import Way, flops_per_pass, flops_per_token
from .vectors import around_vectors

_HALF = (torch.float16, torch.bfloat16)


class Path(Enum):
    """The ways through an adapted layer."""

    FUSED = "fused"
    """Base and low-rank update as one autograd node (``fused``), which layers that read one input share."""
    EAGER = "eager"
    """The same in torch's own operations (``eager``): for small inputs, and for few tokens at a high rank."""
    VECTORS = "merged vectors"
    """Frozen matrices around vectors, merged with the base weight for the pass (``vectors``)."""
    DENSE_MAP = "dense map"
    """An elementwise map's update, added to the base weight for the pass (``dense``)."""
    MERGED = "merged"
    """Base and update as one weight that is kept from pass to pass (``merged``)."""
    LOOKUP = "lookup"
    """Of an embedding: the first factor is looked up, the rest is low-rank (``lookup``)."""
    CONVOLUTION = "convolution"
    """Of a convolution: base and low-rank update as one node, which keeps the input once (``convolution``)."""
    UNFUSED = "unfused"
    """The base layer as it is called, and each adapter's update beside it: whatever the base and the adapters are."""

    @property
    def joinable(self) -> bool:
        """Whether layers that read one input are computed together."""
        return self is Path.FUSED


# Which device tensors without storage stand for, and whether autocast is on there.
_STANDS_FOR: ContextVar[tuple[str, bool]] = ContextVar("stands_for", default=("meta", False))


@contextmanager
def standing_for(device: str, *, autocast: bool = False) -> Iterator[None]:
    """In here, layers on the meta device go the ways that they would go on that type of device."""
    token = _STANDS_FOR.set((device, autocast))
    try:
        yield
    finally:
        _STANDS_FOR.reset(token)


class Call(NamedTuple):
    """What a layer is called with.

    Attributes:
        tokens: rows of the input.
        dtype: the input's.
        device: the type of its device.
        autocast: whether that is on there.
        grad: whether gradients are taken.
        input_grad: whether the input asks for one, too.
        kernel: the selected kernel's name.
    """

    tokens: int
    dtype: torch.dtype
    device: str = "cpu"
    autocast: bool = False
    grad: bool = True
    input_grad: bool = True
    kernel: str = "fused"

    @classmethod
    def of(cls, x: Tensor) -> Call:
        """The call with x, (..., d_in), as things are now."""
        kind, grad = x.device.type, torch.is_grad_enabled()
        if kind == "meta":
            kind, autocast = _STANDS_FOR.get()
        else:
            autocast = torch.is_autocast_enabled(kind)
        tokens = x.numel() // max(x.shape[-1], 1)
        return cls(tokens, x.dtype, kind, autocast, grad, grad and x.requires_grad, kernel_name())

    @property
    def half(self) -> bool:
        """Whether it is computed in half precision."""
        return self.autocast or self.dtype in _HALF


class Reads(NamedTuple):
    """What a layer reads for each vector of its output.

    Attributes:
        tokens: an embedding's: which column of the first factor it is, rather than what to multiply it with.
        groups: of a convolution: parts of its input that go through the chain apart; None for other layers.
    """

    tokens: bool = False
    groups: int | None = None


ROWS = Reads()


@dataclass(frozen=True, kw_only=True)
class Spec:
    """An adapted layer, in numbers.

    Attributes:
        update: what its adapter adds.
        sizes: widths by symbol.
        trains: names of the factors that train.
        dtype: the base weight's and the bias's; None where they differ.
        adapter_dtype: the factors'.
        dropout: whether elements of the adapter's input are dropped.
        plain: whether the base is a whole, frozen ``nn.Linear`` without hooks, and one adapter alone is active.
        merge_frozen: whether base and update may be one weight while no factor trains.
        merge_without_gradients: whether an update as large as the weight is kept merged while no gradients are taken.
        reads: what the layer reads.
    """

    update: Update
    sizes: Mapping[str, int]
    trains: frozenset[str]
    dtype: torch.dtype | None = torch.float32
    adapter_dtype: torch.dtype = torch.float32
    dropout: bool = False
    plain: bool = True
    merge_frozen: bool = False
    merge_without_gradients: bool = False
    reads: Reads = ROWS

    @classmethod
    def of(cls, update: Update, tensors: Tensors, weight_shape: Sequence[int], **others: Any) -> Spec:
        """The spec of a layer with these factors and a base weight of that shape, (d_out, d_in)."""
        sizes: dict[str, int] = {}
        for factor in update:
            sizes.update(zip(factor.symbols, tensors[factor.name].shape, strict=True))
        # after the factors' widths: a shared factor that is not cut is as wide as the widest module
        sizes.update(d_out=weight_shape[0], d_in=weight_shape[1])
        trains = frozenset(name for name in update.names if tensors[name].requires_grad)
        return cls(update=update, sizes=sizes, trains=trains, adapter_dtype=tensors[update.names[0]].dtype, **others)

    @functools.cached_property
    def rank(self) -> int:
        """The width behind the first factor."""
        return self.sizes[self.update.factors[0].symbols[0]]

    @functools.cached_property
    def vectors_alone(self) -> bool:
        """Whether it is two frozen matrices, and vectors that may train."""
        names = around_vectors(self.update)
        return names is not None and self.trains.isdisjoint((names[0], names[2]))


def choose(spec: Spec, call: Call) -> Path:
    """The path of a layer of that spec, called so."""
    if spec.reads.tokens:
        return Path.LOOKUP
    if spec.reads.groups is not None:
        return Path.CONVOLUTION
    if not spec.plain:
        return Path.UNFUSED
    if spec.merge_frozen and not spec.trains and call.kernel != "reference" and _alike(spec, call):
        return Path.MERGED
    if call.kernel not in FUSED_KERNELS or not _fits(spec, call):
        return Path.UNFUSED
    if not spec.update.linear:
        merged = spec.merge_without_gradients and not call.grad
        return Path.MERGED if merged else Path.DENSE_MAP
    if form_of(spec, call) is not None:
        return Path.VECTORS
    if is_small(call, spec.sizes["d_in"]) or (spec.vectors_alone and goes_by_token(call.tokens, spec.rank)):
        return Path.EAGER
    return Path.FUSED


def _alike(spec: Spec, call: Call) -> bool:
    """Whether everything is in one dtype that base and update can be added up in."""
    return call.dtype == spec.dtype == spec.adapter_dtype and not call.half and not spec.dropout


def _fits(spec: Spec, call: Call) -> bool:
    """Whether base, adapter and input are of one dtype, or the node or autocast makes them so."""
    if spec.dropout and not spec.update.linear:
        return False
    if call.dtype == spec.dtype and (spec.adapter_dtype == call.dtype or narrows(call.dtype, spec.adapter_dtype)):
        return True
    return call.autocast and call.dtype.is_floating_point


def narrows(dtype: torch.dtype, adapter_dtype: torch.dtype) -> bool:
    """Whether an adapter in float32 computes in the bfloat16 of its input, as under autocast, rather than the input
    being cast up and kept."""
    return dtype == torch.bfloat16 and adapter_dtype == torch.float32


def form_of(spec: Spec, call: Call) -> Form | None:
    """How the frozen matrices around vectors are merged for the pass; None where they are not."""
    # dropout is on the update's input alone
    return None if spec.dropout or not spec.vectors_alone else cheapest(_work(spec, call))


def _work(spec: Spec, call: Call) -> Work:
    return Work(
        tokens=call.tokens,
        rank=spec.rank,
        d_in=spec.sizes["d_in"],
        d_out=spec.sizes["d_out"],
        trains=call.grad and bool(spec.trains),
        input_grad=call.input_grad,
        half=call.half,
    )


# Elements of an input up to which torch's own operations are quicker than a node on a processor: measured on one
# thread, at widths of 384 and 768. Half precision is quicker in the products, and so is slower in the rest for longer;
# up to the lower of its bounds a call of a product in bfloat16 takes longer than all of float32's.
_MOST = 3 << 14
_MOST_HALF = 5 << 15
# An accelerator waits for calls at far larger inputs: a megabyte in half precision is what is given for it.
_MOST_AWAY = 1 << 19


def most_elements(kind: str, half: bool) -> int:
    """How many elements a small input has at most, by type of device and whether it is computed in half precision."""
    if kind != "cpu":
        return _MOST_AWAY
    return _MOST_HALF if half else _MOST


def is_small(call: Call, width: int) -> bool:
    """Whether a pass over an input of that width takes less time than the calls of a node."""
    return call.tokens * width <= most_elements(call.device, call.half)


# ---- operations ------------------------------------------------------------------------------------------------------


def flops(spec: Spec, call: Call) -> int:
    """Operations of a training pass through a layer that is computed by itself."""
    path = choose(spec, call)
    if path is Path.MERGED:
        return 0
    if path in (Path.LOOKUP, Path.CONVOLUTION):
        return _of_columns(spec, call)
    if path is Path.VECTORS:
        return _work(spec, call).flops(form_of(spec, call))
    if path is Path.DENSE_MAP:  # in half precision, the update is applied in a product of its own
        return _count(spec, call, "written" if call.half else "kernel", "kernel")
    if path is Path.EAGER:
        by_factor = few(call.tokens, spec.rank)
    else:
        by_factor = path is Path.UNFUSED and (call.kernel == "reference" or not spec.update.linear)
    way = "written" if by_factor else "kernel"
    return _count(spec, call, way, way)


def _of_columns(spec: Spec, call: Call) -> int:
    """Of a layer that is no matrix: a factor that is looked up takes no product, and the first matrix of a convolution
    is met by each group of its channels."""
    whole = flops_per_pass(spec.update, spec.sizes, spec.trains, input_grad=call.input_grad, way="kernel").total
    if not isinstance(spec.update, Chain):
        dense = 2 * spec.sizes["d_in"] * spec.sizes["d_out"] * bool(spec.trains)
        return whole + (0 if spec.reads.tokens else call.tokens * dense)
    rank, upstream = spec.update.rank(spec.sizes), spec.update.upstream(spec.sizes)
    down = 0 if spec.reads.tokens else 2 * rank * spec.sizes["d_in"] * (spec.reads.groups or 1)
    up, before = 2 * rank * spec.sizes["d_out"], not spec.trains.isdisjoint(upstream)
    input_grad = call.input_grad and not spec.reads.tokens
    trained = bool(spec.trains - set(upstream))
    return whole + call.tokens * (down * (1 + input_grad + before) + up * (1 + (input_grad or before) + trained))


def _count(spec: Spec, call: Call, token: Way, whole: Way, extra: Sequence[str] = ()) -> int:
    each = flops_per_token(spec.update, spec.sizes, {*spec.trains, *extra}, input_grad=call.input_grad, way=token)
    once = flops_per_pass(spec.update, spec.sizes, spec.trains, input_grad=call.input_grad, way=whole)
    return call.tokens * each.total + once.total


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A layer of a model as it is to be counted.

    Attributes:
        spec: the layer.
        call: what it is called with, but for the tokens and their gradient.
    """

    spec: Spec
    call: Call

    def called(self, tokens: int, input_grad: bool) -> Call:
        """The call with that many tokens."""
        return self.call._replace(tokens=tokens, input_grad=input_grad)

    def path(self, tokens: int, input_grad: bool) -> Path:
        """The path of a training pass."""
        return choose(self.spec, self.called(tokens, input_grad))

    def changed(self, **values: Any) -> Adapted:
        """The same with other values in its spec."""
        return replace(self, spec=replace(self.spec, **values))

    @property
    def sizes(self) -> Mapping[str, int]:
        return self.spec.sizes

    @property
    def trains(self) -> frozenset[str]:
        return self.spec.trains

    def merging(self) -> int:
        """Operations of adding base and update up to one weight."""
        update, sizes = self.spec.update, self.spec.sizes
        composing = flops_per_pass(update, sizes, (), input_grad=False, way="kernel").forward
        low_rank = update.rank(sizes) if isinstance(update, Chain) else 0
        return composing + 2 * low_rank * sizes["d_in"] * sizes["d_out"]


def pass_flops(layers: Sequence[Adapted], tokens: int, *, input_grad: bool) -> int:
    """Operations of one forward and backward pass beyond the base layers' own.

    Args:
        layers: one, or those that read one input, in the order of their calls.
        tokens: rows of the input.
        input_grad: whether the input asks for a gradient.
    """
    together = [layer for layer in layers if layer.path(tokens, input_grad).joinable]
    if len(together) < 2:
        together = []
    # something upstream of a bottleneck trains in one of them: then the node takes gradients there for all
    upstream = any(
        not layer.trains.isdisjoint(layer.spec.update.upstream(layer.sizes))
        for layer in together
        if isinstance(layer.spec.update, Chain)
    )
    total = 0
    for layer in layers:
        spec, call = layer.spec, layer.called(tokens, input_grad)
        if layer in together:
            total += _count(spec, call, "kernel", "kernel", spec.update.names[:1] if upstream else ())
        else:
            total += flops(spec, call)
    return total
