"""Penalties over many modules at once: the same numbers as module by module."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tapertune.adapt import Orthogonality, blocks
from tapertune.adapt.stacked import batches

PLANES: dict[str, Any] = {
    "rows": ("A", "aa"), "columns": ("B", "bb"), "row_products": (("B", "A"),), "column_products": (("bb", "aa"),),
}  # fmt: skip
TRIPLETS: dict[str, Any] = {"rows": ("A",), "columns": ("bb",)}
RANKS = (3, 3, 1, 0, 3, 2, 3)
Modules = list[dict[str, nn.Parameter]]


def modules(dtype: torch.dtype = torch.float64) -> Modules:
    """LoRA^2's planes in modules of two widths and several ranks, one of them empty, some factors frozen."""
    torch.manual_seed(0)
    made: Modules = []
    for i, rank in enumerate(RANKS):
        d_in, d_out = (7, 9) if i % 2 else (8, 5)
        shapes = {"A": (4, d_in), "B": (rank, 4), "aa": (4, rank), "bb": (d_out, 4)}
        module = {name: nn.Parameter(torch.randn(shape, dtype=dtype)) for name, shape in shapes.items()}
        for name, p in module.items():
            if (i, name) not in {(1, "A"), (5, "bb"), (5, "aa")}:
                p.grad = torch.randn_like(p)
        made.append(module)
    return made


def expected(penalty: Orthogonality, made: Modules) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The value, and its gradients from autograd, of the definition written out."""

    def gap(m: torch.Tensor) -> torch.Tensor:
        return m @ m.T - torch.eye(len(m), dtype=m.dtype)

    norms = []
    for m in made:
        matrices = [(m[name],) for name in penalty.rows] + [(m[a], m[b]) for a, b in penalty.row_products]
        norms += [gap(_product(part)).norm() for part in matrices if all(p.numel() for p in part)]
        matrices = [(m[name],) for name in penalty.columns] + [(m[a], m[b]) for a, b in penalty.column_products]
        norms += [gap(_product(part).T).norm() for part in matrices if all(p.numel() for p in part)]
    stacked = torch.stack(norms)
    value = penalty.weight * (stacked.mean() if penalty.form == "norm_mean" else stacked.square().sum())
    leaves = [p for m in made for p in m.values()]
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    return value.detach(), [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)]


def _product(part: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return part[0] if len(part) == 1 else part[0] @ part[1]


@pytest.mark.parametrize("form", ["squared_sum", "norm_mean"])
@pytest.mark.parametrize("factors", [PLANES, TRIPLETS], ids=["planes", "triplets"])
@pytest.mark.parametrize("limit", [None, 100], ids=["in one block", "in small blocks"])
def test_ranks_widths_and_frozen_factors_of_all_kinds(
    form: str, factors: dict[str, Any], limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit is not None:
        monkeypatch.setattr(blocks, "_CPU", limit)
    made = modules()
    penalty = Orthogonality(weight=0.3, form=form, **factors)
    before = [None if p.grad is None else p.grad.clone() for m in made for p in m.values()]
    value, gradients = expected(penalty, made)
    torch.testing.assert_close(penalty.value(made), value)
    penalty.add(made, 2.0)
    for p, old, gradient in zip((p for m in made for p in m.values()), before, gradients, strict=True):
        if old is None:
            assert p.grad is None, "what does not train gets no gradient"
        else:
            torch.testing.assert_close(p.grad, old + 2 * gradient)


def test_a_scale_may_be_a_tensor() -> None:
    one, two = modules(), modules()
    Orthogonality(**PLANES).add(one, 8.0)
    Orthogonality(**PLANES).add(two, torch.tensor(8.0))
    for a, b in zip(one, two, strict=True):
        for name in a:
            torch.testing.assert_close(a[name].grad, b[name].grad)


def test_orthonormal_factors_have_no_gradient_of_the_plain_norm() -> None:
    factor = nn.Parameter(torch.eye(3, 5))
    factor.grad = torch.zeros_like(factor)
    Orthogonality(rows=("A",), columns=(), form="norm_mean").add([{"A": factor}])
    assert not factor.grad.any()


def test_batches_hold_modules_alike_and_each_module_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = modules()
    monkeypatch.setattr(blocks, "_CPU", 2 * made[0]["A"].numel())
    found = batches(made, ["A"])
    assert [[m["A"].shape for m in batch] for batch in found] == [[(4, 8)] * 2, [(4, 8)] * 2, [(4, 7)], [(4, 7)] * 2]
    assert sorted(id(m) for batch in found for m in batch) == sorted(id(m) for m in made)
