"""Tensors that not every step reaches, such as the factors of an expert: what their averages are worth.

An expert to which no token goes has no gradient. Its averages stay what they were, and so are of fewer steps than the
others': as they start at zero without bias correction, they are corrected to as many. One that was never reached has
no score at all, and no policy acts on it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from ..errors import bad_value
from .importance import Importance, Scores, _Importance


class Reaches:
    """In how many steps each tensor had a gradient.

    Args:
        importance: what is averaged and how.
    """

    def __init__(self, importance: Importance) -> None:
        self.importance = importance
        self.steps = 0
        self._counts: dict[str, int] = {}

    def count(self, missed: Collection[str], routed: Collection[str]) -> None:
        """Counts one step.

        Args:
            missed: the tensors that it has not reached.
            routed: all that it might have.
        """
        self.steps += 1
        for name in routed:
            if name not in missed:
                self._counts[name] = self._counts.get(name, 0) + 1

    def known(self, name: str) -> bool:
        """Whether a tensor's averages hold anything."""
        return self._updates(self._counts.get(name, 0)) > 0

    def _updates(self, steps: int) -> int:
        """How often so many steps have moved the averages."""
        length = self.importance.window
        return steps if length is None else max(steps - 1, 0) // length

    def _weight(self, steps: int) -> float:
        """What averages that start at zero are of, after so many steps; windows that are compared are whole."""
        if not isinstance(self.importance, _Importance):
            return 1.0
        updates = self._updates(steps)
        return (1 - self.importance.beta1**updates) * (1 - self.importance.beta2**updates)

    def corrected(self, scores: Scores, routed: Collection[str]) -> Scores:
        """Scores without those of tensors of which nothing is known, and as if all had been reached in every step."""
        if not self._updates(self.steps):
            return scores
        whole = self._weight(self.steps)
        unreached = [name for name in scores.names if name in routed and not self.known(name)]
        parts, kept = [], []
        for i, (name, part) in enumerate(zip(scores.names, scores.elements.split(scores.sizes), strict=True)):
            if name in unreached:
                continue
            steps = self._counts.get(name, 0) if name in routed else self.steps
            own = self._weight(steps)
            parts.append(part if steps == self.steps or not own else part * (whole / own))
            kept.append(i)
        return Scores(
            [scores.names[i] for i in kept],
            torch.cat([scores.elements.new_zeros(0), *parts]),
            [scores.sizes[i] for i in kept],
            [scores.shapes[i] for i in kept],
            unreached,
        )

    def state(self, names: Sequence[str]) -> Tensor:
        """The steps of each tensor, and last those there were."""
        return torch.tensor([*(self._counts.get(name, 0) for name in names), self.steps])

    def load(self, names: Sequence[str], state: Tensor) -> None:
        """Goes on from a saved state.

        Raises:
            TapertuneError: it is of other tensors.
        """
        if state.shape != (len(names) + 1,):
            raise bad_value("saved averages, reached", tuple(state.shape), f"of shape {(len(names) + 1,)}")
        *counts, self.steps = (int(value) for value in state.tolist())
        self._counts = {name: steps for name, steps in zip(names, counts, strict=True) if steps}
