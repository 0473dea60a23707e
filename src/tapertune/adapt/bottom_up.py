"""Whole layers freeze, the lowest first: below the lowest one that trains, backward has nothing left to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import TapertuneError, bad_value
from .decision import BasePolicy, Decision, PolicyScope
from .importance import Scores
from .parameter import AdapterParameter
from .spec import check_flag, spec


@spec("bottom_up")
@dataclass(frozen=True, kw_only=True)
class BottomUp(BasePolicy):
    """Freezes all factors of the lowest layers, vectors included, from the bottom up. Scores play no part: the schedule
    alone says when. Of the layers that may freeze, ``1 - remaining`` are frozen.

    Where nothing below asks for gradients either, backward ends at the lowest layer that trains: the layers below it
    cost their forward pass alone, and keep no activations.

    Adapted modules outside the numbered layers go on training.

    Attributes:
        layers: how many of the layers may freeze: a share below 1.0, or a whole number. The others train to the end.
        merge_frozen: compute each frozen module as one weight, base and update together, as long as the controller is
            at work: its forward pass is then the bare model's, for a second copy of its base weight in memory.
    """

    layers: float | int = 0.5
    merge_frozen: bool = True

    def __post_init__(self) -> None:
        number = isinstance(self.layers, int | float) and not isinstance(self.layers, bool)
        if not number or not self.layers > 0 or (isinstance(self.layers, float) and self.layers >= 1):
            raise bad_value(
                "policy.layers", self.layers, "a share of the layers between 0.0 and 1.0, or a whole number of them"
            )
        check_flag("policy.merge_frozen", self.merge_frozen)

    def scope(self, handles: Mapping[str, AdapterParameter], training: set[str]) -> PolicyScope:
        # all factors, whether they train yet or still: a run that goes on from a checkpoint counts the same layers
        layers = layers_upward(handles.values())
        if not layers:
            raise TapertuneError(
                "policy bottom_up needs numbered layers, such as 'encoder.layer.3.output.dense'; "
                f"no adapted module has a number in its path: {', '.join(sorted({h.module for h in handles.values()}))}"
            )
        count = int(self.layers * len(layers) + 1e-9) if isinstance(self.layers, float) else self.layers
        if not 0 < count < len(layers):
            raise TapertuneError(
                f"policy.layers is {self.layers!r}, which lets {count} of the {len(layers)} adapted layers freeze; "
                "at least one has to freeze and at least one to go on training"
            )
        return PolicyScope(scored=(), freeze_groups=tuple(layers[:count]))

    def decide(self, scores: Scores, remaining: float, scope: PolicyScope) -> Decision:
        """
        Args:
            scores: unused.
            remaining: the schedule's fraction.
            scope: its freeze groups are the layers that may freeze.
        """
        due = int((1 - remaining) * len(scope.freeze_groups) + 1e-9)  # as in LowestFraction
        return Decision(freeze=tuple(name for group in scope.freeze_groups[:due] for name in group))


def layers_upward(handles: Iterable[AdapterParameter]) -> list[tuple[str, ...]]:
    """Names of the factors of each numbered layer, the lowest layer first.

    A model's stacks of layers (an encoder, then a decoder) follow each other as their modules do in the model.
    """
    stacks: dict[str, dict[int, list[str]]] = {}
    for handle in handles:
        if handle.layer is not None:
            parts = handle.module.split(".")
            place = next(i for i, part in enumerate(parts) if part.isdigit())
            stack = stacks.setdefault(".".join(parts[:place]), {})
            stack.setdefault(handle.layer, []).append(handle.name)
    return [tuple(stack[layer]) for stack in stacks.values() for layer in sorted(stack)]
