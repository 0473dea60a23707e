"""Passes through a part of a model: up to a layer, where they stop, and from a layer on.

Nothing is rewritten: for the time of a pass, layers below have a ``forward`` of their own that hands states through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from ..errors import TapertuneError
from .randomness import Quiet
from .stack import Stack

Rest = tuple[Any, ...] | None
"""What a layer returns behind its states; None where it returns its states alone."""


class _Arrived(Exception):
    """Ends a pass at its layer."""

    def __init__(self, states: Tensor) -> None:
        self.states = states


class Passes:
    """Passes through one stack.

    Args:
        stack: the layers and what is around them.

    Attributes:
        skips_embedding: whether the module that makes layer 0's input is left out too.
        dtype: of the states at the end of the last pass.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.skips_embedding = True
        self.dtype: torch.dtype | None = None
        self._embedding: nn.Module | None = None
        self._rests: dict[tuple[int, Any], Rest] = {}

    def learn(self, level: int, arguments: Mapping[str, Any]) -> list[nn.Module]:
        """The modules that run before a layer, those of the layers below it apart. Finds out, too, which module's
        result enters layer 0.

        Args:
            level: the layer.
            arguments: of the backbone, for some rows.
        """
        backbone, layers = self.stack.backbone, self.stack.layers
        inside = {id(module) for module in backbone.modules()}
        apart = {id(m) for layer in layers for m in layer.modules()} | {id(m) for m in _around(self.stack)}
        order: list[nn.Module] = []
        results: list[tuple[nn.Module, Any]] = []
        first: list[Tensor] = []

        def note(module: nn.Module, inputs: Any) -> None:
            if id(module) in inside - apart:
                order.append(module)

        def note_result(module: nn.Module, inputs: Any, output: Any) -> None:
            if not first and id(module) in inside:
                results.append((module, output))

        def note_input(*inputs: Any, **others: Any) -> Any:
            first.append(_states_in(inputs, others))
            return forward(*inputs, **others)

        def arrive(*inputs: Any, **others: Any) -> Any:
            raise _Arrived(_states_in(inputs, others))

        forward = layers[0].forward
        hooks = [
            torch_module.register_module_forward_pre_hook(note),
            torch_module.register_module_forward_hook(note_result),
        ]
        quiet = Quiet(backbone.modules())
        quiet.on()
        try:
            with _forwards({layers[0]: note_input, layers[level]: arrive}):
                backbone.forward(**arguments)
        except _Arrived:
            same = (module for module, output in reversed(results) if output is first[0])
            self._embedding = next(same, None)
            return [backbone, *dict.fromkeys(order)]
        finally:
            quiet.off()
            for hook in hooks:
                hook.remove()
        raise TapertuneError(
            f"cache: a pass through {type(backbone).__name__} does not go through {self.stack.path}; "
            "cache.layers names another list"
        )

    def up_to(
        self, level: int, arguments: Mapping[str, Any], start: int, states: Tensor | None, quiet: Quiet
    ) -> Tensor:
        """States that enter a layer.

        Args:
            level: the layer.
            arguments: of the backbone.
            start: the layer to begin at.
            states: that enter it, (rows, positions, width); None at 0.
            quiet: what must draw nothing.
        """
        forwards = {} if states is None else self._through(start, states)
        layers = self.stack.layers
        for number in range(start, level):
            forwards[layers[number]] = self._noting(number, layers[number].forward, number == level - 1)
        quiet.on()
        try:
            with _forwards(forwards):
                self.stack.backbone.forward(**arguments)
        except _Arrived as end:
            self.dtype = end.states.dtype
            return end.states
        finally:
            quiet.off()
        raise TapertuneError(f"cache: a pass through {self.stack.path} did not come to layer {level}")

    def begin_at(self, level: int, states: Tensor, quiet: Quiet) -> Callable[[], None]:
        """Has the backbone's next pass begin at a layer; the function that is returned takes that back."""
        forwards = self._through(level, states)
        last = self.stack.layers[level - 1]
        hand_on = forwards[last]

        def end(*inputs: Any, **others: Any) -> Any:
            quiet.off()  # what follows trains
            return hand_on(*inputs, **others)

        forwards[last] = end
        quiet.on()
        patched = _forwards(forwards)
        patched.__enter__()

        def stop() -> None:
            quiet.off()
            patched.__exit__(None, None, None)

        return stop

    def knows_rests(self, level: int, length: int, device: torch.device) -> bool:
        """Whether it is known what the layers below return behind states of so many positions."""
        return all(self._rest(number, length, device) is not _UNKNOWN for number in range(level))

    def _through(self, level: int, states: Tensor) -> dict[nn.Module, Callable[..., Any]]:
        """Forward passes that hand states through all layers below one."""
        if (
            any(getattr(layer, "gradient_checkpointing", False) for layer in self.stack.layers)
            and torch.is_grad_enabled()
        ):
            states = states.detach().requires_grad_(True)  # checkpointing that re-enters needs an input to ask it of
        forwards: dict[nn.Module, Callable[..., Any]] = {}
        for number, layer in enumerate(self.stack.layers[:level]):
            forwards[layer] = _handing_on(states, self._rest(number, states.shape[1], states.device))
        if self._embedding is not None and self.skips_embedding:
            forwards[self._embedding] = _once(self._embedding, states)
        return forwards

    def _rest(self, number: int, length: int, device: torch.device) -> Any:
        return self._rests.get((number, None), self._rests.get((number, (length, device)), _UNKNOWN))

    def _noting(self, number: int, forward: Callable[..., Any], last: bool) -> Callable[..., Any]:
        """A layer's own pass, of which is kept what it returns behind the states."""

        def run(*inputs: Any, **others: Any) -> Any:
            result = forward(*inputs, **others)
            states, rest = (result[0], tuple(result[1:])) if isinstance(result, tuple) else (result, None)
            tensors = [value for value in rest or () if isinstance(value, Tensor)]
            if not all(value is None or isinstance(value, Tensor) for value in rest or ()) or any(
                value.shape[:1] != (1,) for value in tensors
            ):
                raise TapertuneError(
                    f"cache: layers of {self.stack.path} hand on more than their states, and it differs by row: they "
                    "cannot be left out"
                )
            self._rests[number, (states.shape[1], states.device) if tensors else None] = rest
            if last:
                raise _Arrived(states)
            return result

        return run


_UNKNOWN: Any = object()


def _handing_on(states: Tensor, rest: Rest) -> Callable[..., Any]:
    return lambda *inputs, **others: states if rest is None else (states, *rest)


def _once(module: nn.Module, states: Tensor) -> Callable[..., Any]:
    """Hands states on the first time; the same module may run again behind the layers."""

    def forward(*inputs: Any, **others: Any) -> Any:
        vars(module).pop("forward", None)
        return states

    return forward


def _states_in(inputs: tuple[Any, ...], others: Mapping[str, Any]) -> Tensor:
    values = (value for value in (*inputs, others.get("hidden_states"), *others.values()) if isinstance(value, Tensor))
    return next(values)


def _around(stack: Stack) -> Iterator[nn.Module]:
    """The modules between the backbone and the list."""
    for module in stack.backbone.modules():
        if module is stack.layers or any(inner is stack.layers for inner in module.modules()):
            yield module


@contextmanager
def _forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Modules compute so in here; what they had of their own before, they have again."""
    before = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, forward in before.items():
            vars(module).pop("forward", None)
            if forward is not None:
                vars(module)["forward"] = forward
