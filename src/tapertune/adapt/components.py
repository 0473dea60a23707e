"""Rank components: what hangs together across a module's factors when one rank goes.

A component is one index of the width that a gate (a diagonal such as AdaLoRA's E) scales: a row of the matrix before
it, the gate's element, a column of the matrix after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import TapertuneError
from .parameter import AdapterParameter


@dataclass(frozen=True)
class RankGroup:
    """The components of one module.

    Attributes:
        module: its path.
        gate: name of the gate's handle.
        parts: (handle name, axis of the components) of every factor that has them, the gate included.
        size: components there were at the start.
    """

    module: str
    gate: str
    parts: tuple[tuple[str, int], ...]
    size: int


def group_by_gate(handles: Iterable[AdapterParameter], gate: str) -> list[RankGroup]:
    """One group for each module whose chain has a diagonal of that name.

    Raises:
        TapertuneError: no chain here has it.
    """
    modules: dict[str, list[AdapterParameter]] = {}
    for handle in handles:
        modules.setdefault(handle.module, []).append(handle)
    groups = []
    for module, members in modules.items():
        found = next((h for h in members if h.factor == gate and not h.matrix), None)
        if found is None:
            continue
        width = found.symbols[0]
        if any(h.shared for h in members):
            raise TapertuneError(f"policy.gate {gate!r}: ranks of projections that modules share cannot be pruned")
        parts = tuple((h.name, h.symbols.index(width)) for h in members if width in h.symbols)
        groups.append(RankGroup(module, found.name, parts, found.parameter.numel()))
    if not groups:
        diagonals = sorted({h.factor for members in modules.values() for h in members if not h.matrix})
        raise TapertuneError(
            f"policy.gate names {gate!r}; the adapter's diagonal factors are {', '.join(diagonals) or 'none'}"
        )
    return groups


def component_scores(scores: Mapping[str, Tensor], groups: Sequence[RankGroup]) -> list[Tensor]:
    """Scores of each group's components: the sum over its factors of the mean over the component's elements.

    ``S_i = s(E_i) + mean_j s(A_ij) + mean_j s(B_ji)`` for AdaLoRA's triplets. Groups of the same shapes are worked out
    together.

    Args:
        scores: element scores by name, in the factors' shapes.
        groups: with a part each at least.

    Returns:
        (components,) of each group, in order.
    """
    alike: dict[tuple[tuple[torch.Size, int], ...], list[int]] = {}
    for i, group in enumerate(groups):
        alike.setdefault(tuple((scores[name].shape, axis) for name, axis in group.parts), []).append(i)
    found: dict[int, Tensor] = {}
    for shapes, members in alike.items():
        total: Tensor | None = None
        for part, (_, axis) in enumerate(shapes):
            stacked = torch.stack([scores[groups[i].parts[part][0]] for i in members])
            moved = stacked.movedim(axis + 1, 1).flatten(2) if stacked.dim() > 2 else stacked.unsqueeze(2)
            mean = moved.mean(2) if moved.shape[2] else moved.new_zeros(moved.shape[:2])
            total = mean if total is None else total + mean
        assert total is not None, "a group without parts"
        found.update(zip(members, total.unbind(0), strict=True))
    return [found[i] for i in range(len(groups))]
