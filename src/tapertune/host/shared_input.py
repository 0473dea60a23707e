"""Adapted layers that read the same input: query, key and value, or gate and up.

Computed as one node they share one product with the input in each direction, one dropout mask, and one sum of the
input's gradient. Which layers belong together follows from their names, so that a run does from its first step what it
will do to its last.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..kernels import Call, Path, choose, run_fused
from .merged_weight import version
from .snapshot import Snapshot

TOGETHER = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
    ("gate_proj", "up_proj"),
    ("wi_0", "wi_1"),
)
CROSS = {"EncDecAttention", "encoder_attn", "crossattention", "cross_attn"}  # here the first one reads another input


class Reader(Protocol):
    """A layer that reads an input."""

    training: bool
    snapshot: Snapshot | None

    def current(self) -> Snapshot | None:
        """The layer's snapshot, taken anew where it has to be; None where it goes unfused."""
        ...


class SharedInput:
    """Layers called one after another with one tensor; the first call computes for all, the others take what is theirs.

    A layer that is called otherwise than was foreseen computes for itself, and from then on all of them do.

    Args:
        layers: in the order in which the model calls them.
    """

    def __init__(self, layers: Sequence[Reader]) -> None:
        self.layers = list(layers)
        self.apart = len(self.layers) < 2
        self._forget()

    def _forget(self, x: Any = None) -> None:
        if x is None or x is self._x:
            self._x: weakref.ref[Tensor] | None = None
            self._state: Any = None
            self._waiting: dict[int, tuple[int, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"layers": self.layers, "apart": self.apart}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def run(self, me: Reader, state: Snapshot, x: Tensor, call: Call) -> Tensor:
        """The output of a layer on the fused path, together with the others' that are on it with the same adapter.

        Args:
            me: the layer that is called.
            state: its snapshot.
            x: the input.
            call: with x.
        """
        if self.apart:
            return run_fused(x, [state], call)[0]

        def able(layer: Reader) -> bool:
            other = layer.current()
            return other is not None and other.adapter == state.adapter and choose(other.spec, call) is Path.FUSED

        return self.take(
            me,
            x,
            state.adapter,
            able=able,
            make=lambda layers: run_fused(x, [cast(Snapshot, layer.snapshot) for layer in layers], call),
            version_of=lambda layer: (layer.snapshot, layer.snapshot and layer.snapshot.version()),
        )

    def take(
        self,
        me: Reader,
        x: Tensor,
        adapter: str,
        able: Callable[[Any], bool],
        make: Callable[[Sequence[Any]], Sequence[Any]],
        version_of: Callable[[Any], Any] = lambda layer: None,
    ) -> Any:
        """What ``make`` makes for this layer from x, together with the others where they read x too.

        Args:
            me: the layer that asks.
            x: the input; the same object for all of them.
            adapter: the adapter that is active.
            able: whether another layer can take part now.
            make: makes a result for each of the layers that it is given.
            version_of: of a layer; a result that waits is good while it is the same.
        """
        if self.apart:
            return make([me])[0]
        state = (adapter, version(x), torch.is_grad_enabled(), me.training)
        if self._x is not None and self._x() is x and self._state == state and id(me) in self._waiting:
            then, result = self._waiting.pop(id(me))
            if then == version_of(me):
                return result
        layers = [layer for layer in self.layers if layer is me or able(layer)]
        if self._waiting or layers[0] is not me:
            self.apart = True  # for good
            self._forget()
            return make([me])[0]
        results = make(layers)
        if len(layers) > 1:
            others = zip(layers[1:], results[1:], strict=True)
            self._waiting = {id(layer): (version_of(layer), result) for layer, result in others}
            self._x, self._state = weakref.ref(x, self._forget), state
        return results[0]


def link(model: nn.Module, kind: type[nn.Module]) -> None:
    """Puts the layers of a model that read the same input together.

    Args:
        model: the model.
        kind: the layers' class.
    """
    for path, parent in model.named_modules():
        children = dict(parent.named_children())
        for names in TOGETHER:
            crossing = not CROSS.isdisjoint(path.split("."))
            layers: list[Any] = [children.get(name) for name in names[crossing:]]
            readers = [layer for layer in layers if isinstance(layer, kind)]
            if len(readers) > 1:
                shared = SharedInput(cast(Any, readers))
                for layer in readers:
                    vars(layer)["shared_input"] = shared
