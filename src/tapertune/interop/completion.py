"""Which modules an adapter has to hold so that every server reads it right, and by what names they are targeted.

Servers fuse query, key and value, and gate and up, and take an adapter's targets to hold in every layer. So an
export has every module of each kind that it adapts, and the whole of each fused group.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from .shapes import BaseShapes

Widths = tuple[int, int]

# what is computed as one matrix, by the last parts of the paths
_FUSED = (
    ("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("query_proj", "key_proj", "value_proj"),
    ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"), ("gate_proj", "up_proj"), ("w1", "w3"), ("wi_0", "wi_1"),
)  # fmt: skip


def kind_of(module: str) -> str:
    """The module's path with its layer (and its expert) left open.

    >>> kind_of("model.layers.7.mlp.experts.3.up_proj"), kind_of("lm_head")
    ('model.layers.*.mlp.experts.*.up_proj', 'lm_head')
    """
    return re.sub(r"(^|\.)\d+(?=\.)", r"\1*", module)


def complete(modules: Mapping[str, Widths], shapes: BaseShapes) -> dict[str, Widths]:
    """Widths of all that must be there: the adapter's modules, and those of the base of the same kinds and groups."""
    kinds = {kind for module in modules for kind in _with_its_group(kind_of(module))}
    return {**{m: widths for m, widths in shapes.widths.items() if kind_of(m) in kinds}, **modules}


def unfused(modules: Collection[str]) -> list[str]:
    """Modules that some of their layer's group are missing beside, as far as the adapter's own paths tell."""
    return sorted(m for m in modules if (group := _with_its_group(m)) != [m] and not set(group) <= set(modules))


def _with_its_group(path: str) -> list[str]:
    parent, dot, last = path.rpartition(".")
    group = next((group for group in _FUSED if last in group), (last,))
    return [f"{parent}{dot}{name}" for name in group]


def target_names(modules: Collection[str], shapes: BaseShapes | None) -> list[str]:
    """What ``target_modules`` names: the shortest endings that no other module of the base has; full paths without it.

    >>> from .shapes import BaseShapes
    >>> names = frozenset(["l.0.attn.dense", "l.0.ffn.dense", "pooler.dense"])
    >>> target_names(["l.0.ffn.dense"], BaseShapes(widths={}, names=names, transposed=False))
    ['ffn.dense']
    """
    if shapes is None:
        return sorted(modules)
    wanted = set(modules)
    foreign = {ending for name in shapes.names if name not in wanted for ending in _endings(name)}
    return sorted({next((e for e in _endings(m) if e not in foreign), m) for m in modules})


def _endings(path: str) -> list[str]:
    """The shortest first."""
    parts = path.split(".")
    return [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
