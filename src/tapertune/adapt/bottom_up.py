"""Whole layers freeze, the lowest first: below the lowest one that trains, backward has nothing left to do, and where
rows are cached, the forward pass neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import TapertuneError, bad_value
from .decision import BasePolicy, Decision, PolicyScope
from .importance import Scores
from .parameter import AdapterParameter
from .spec import check_flag, check_range, spec


@spec("bottom_up")
@dataclass(frozen=True, kw_only=True)
class BottomUp(BasePolicy):
    """Freezes all factors of the lowest layers, vectors included, from the bottom up. By the clock, scores play no
    part: the schedule alone says when. Of the layers that may freeze, ``1 - remaining`` are frozen.

    By evidence, a layer freezes when those below it have and its score has settled: its mean over the elements of all
    that it holds is below the quantile ``evidence`` of the scores of all layers that still train (AutoFreeze, Liu et
    al. 2021, arXiv 2102.01386, with importance ``change``). The schedule bounds it: ``ahead`` and ``behind`` say how
    far from its share of layers the frozen share may be. Nothing freezes in the schedule's warm-up; what has not
    settled at its end trains to the end of the run.

    Where nothing below asks for gradients either, backward ends at the lowest layer that trains: the layers below it
    cost their forward pass alone, and keep no activations.

    Adapted modules outside the numbered layers go on training.

    Attributes:
        layers: how many of the layers may freeze: a share below 1.0, or a whole number. The others train to the end.
        merge_frozen: compute each frozen module as one weight, base and update together, as long as the controller is
            at work: its forward pass is then the bare model's, for a second copy of its base weight in memory.
        evidence: quantile of the scores of the layers that still train, below which a layer counts as settled; None: by
            the clock.
        ahead, behind: with evidence, the share of the layers that may freeze earlier, and later, than by the clock.
    """

    layers: float | int = 0.5
    merge_frozen: bool = True
    evidence: float | None = None
    ahead: float = 0.5
    behind: float = 0.5

    def __post_init__(self) -> None:
        number = isinstance(self.layers, int | float) and not isinstance(self.layers, bool)
        if not number or not self.layers > 0 or (isinstance(self.layers, float) and self.layers >= 1):
            raise bad_value(
                "policy.layers", self.layers, "a share of the layers between 0.0 and 1.0, or a whole number of them"
            )
        check_flag("policy.merge_frozen", self.merge_frozen)
        quantile = self.evidence
        if quantile is not None and (not isinstance(quantile, float) or not 0 < quantile < 1):
            raise bad_value("policy.evidence", quantile, "a quantile of the scores between 0.0 and 1.0, or null")
        for name in ("ahead", "behind"):
            check_range(f"policy.{name}", getattr(self, name), 0, 1)

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
        if self.evidence is None:
            return PolicyScope(scored=(), freeze_groups=tuple(layers[:count]))
        scored = tuple(name for layer in layers for name in layer if name in training)
        return PolicyScope(scored=scored, freeze_groups=tuple(layers[:count]), compared=tuple(layers[count:]))

    def decide(self, scores: Scores, remaining: float, scope: PolicyScope) -> Decision:
        """
        Args:
            scores: of the factors still training; unused by the clock.
            remaining: the schedule's fraction.
            scope: its freeze groups are the layers that may freeze.
        """
        groups, clock = scope.freeze_groups, 1 - remaining
        due, threshold = self._count(groups, clock), None
        if self.evidence is not None and clock > 0:
            least, most = self._count(groups, clock - self.behind), self._count(groups, clock + self.ahead)
            due, threshold = self._settled(scores, scope, least, most)
        freeze = tuple(name for group in groups[:due] for name in group)
        return Decision(freeze=freeze, threshold=threshold)

    def _count(self, groups: Sequence[Any], share: float) -> int:
        return int(min(1.0, max(0.0, share)) * len(groups) + 1e-9)  # as in LowestFraction

    def _settled(self, scores: Scores, scope: PolicyScope, least: int, most: int) -> tuple[int, float | None]:
        """(how many layers freeze, from so many up to so many; the score below which they have settled)."""
        shaped = scores.shaped()
        layers = (*scope.freeze_groups, *scope.compared)
        parts = [[shaped[name].flatten() for name in layer if name in shaped] for layer in layers]
        means = [torch.cat(values).mean() if values else None for values in parts]
        here = [mean for mean in means if mean is not None]
        if not here or self.evidence is None:
            return most, None
        threshold = float(torch.quantile(torch.stack(here).float(), self.evidence))
        due = least
        while due < most and ((mean := means[due]) is None or float(mean) < threshold):
            due += 1
        return due, threshold


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
