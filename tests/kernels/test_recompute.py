"""Activations that are made again in backward rather than kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from versions import rebuilds

from tapertune.kernels.fused import Part, fused_parts
from tapertune.kernels.recompute import rematerialiser


def rms(h: Tensor, weight: Tensor) -> Tensor:
    wide = h.to(torch.float32) if h.dtype == torch.bfloat16 else h
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * wide.to(h.dtype)


def producers(dtype: torch.dtype) -> dict[str, Any]:
    torch.manual_seed(0)
    norm = nn.LayerNorm(6).to(dtype).requires_grad_(False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    weight = torch.randn(6, dtype=dtype)
    return {
        "layer norm": norm,
        "plain layer norm": nn.LayerNorm(6, elementwise_affine=False),
        "gelu": F.gelu,
        "gelu, tanh": lambda h: F.gelu(h, approximate="tanh"),
        "silu": F.silu,
        "gate": lambda h: F.silu(h) * (h + 1),
        "rms norm": lambda h: rms(h, weight),
        "cast": lambda h: F.gelu(h.float()).to(dtype),
        "cast of relu": lambda h: F.relu(h.to(torch.float16)).to(dtype),
        "dropout": lambda h: F.dropout(norm(h), 0.3),
        "dropout after relu": lambda h: F.dropout(F.relu(h), 0.3),
        "dropout of a gate": lambda h: F.dropout(F.silu(h) * (h + 1), 0.3),
        "a device's dropout": lambda h: torch.native_dropout(F.relu(h), 0.3, True)[0],
        "all dropped": lambda h: torch.native_dropout(F.relu(h), 1.0, True)[0],
    }


NAMES = list(producers(torch.float32))


@rebuilds
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_made_again(name: str, dtype: torch.dtype) -> None:
    h = torch.randn(2, 3, 6, dtype=dtype, requires_grad=True) * 2
    x = producers(dtype)[name](h)
    rebuild = rematerialiser(x)
    assert rebuild is not None
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    made = rebuild(x.grad_fn)
    assert made.dtype == x.dtype
    torch.testing.assert_close(made, x, rtol=tolerance, atol=tolerance)


@rebuilds
def test_what_is_kept_instead() -> None:
    h = torch.randn(3, 6, requires_grad=True) * 2
    assert rematerialiser(torch.randn(3, 6)) is None  # nobody made it
    assert rematerialiser(F.relu(h)) is None  # its producer keeps this very tensor
    assert rematerialiser(F.dropout(h, 0.5)) is None
    trained_weight = nn.Parameter(torch.randn(6))
    assert rematerialiser(rms(h, trained_weight)) is not None  # both sides are kept: a product like a gate's
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        inside = F.gelu(h)
        assert rematerialiser(inside) is None
        assert rematerialiser(F.gelu(h)) is None
    assert rematerialiser(inside) is None  # what it keeps is behind a hook


def graph_bytes(loss: Tensor, skip: set[int]) -> int:
    seen: dict[int, int] = {}
    stack, visited = [loss.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        stack += [following for following, _ in node.next_functions]
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        for tensor in (*saved, *getattr(node, "saved_tensors", ())):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in skip:
                seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(seen.values())


@rebuilds
@pytest.mark.parametrize("checkpointed", [False, True])
def test_training_without_keeping_the_input(checkpointed: bool) -> None:
    """The same gradients as with the input kept, and only the r-wide product more than the frozen layer keeps."""
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    weight, down, up = torch.randn(8, 32), torch.randn(2, 32, requires_grad=True), torch.randn(8, 2, requires_grad=True)
    start = torch.randn(16, 32, requires_grad=True)

    def run(h: Tensor, keep: bool) -> Tensor:
        x = F.gelu(h * 1.5)
        if keep:
            x = x.view_as(x)
        return fused_parts(x, [Part(weight, None, down, None, up, 2.0)])[0].sin()

    grads, sizes = [], []
    for keep in (True, False):
        out = checkpoint(run, start, keep, use_reentrant=False) if checkpointed else run(start, keep)
        loss = out.sum()
        if not checkpointed:
            sizes.append(graph_bytes(loss, {t.untyped_storage().data_ptr() for t in (weight, down, up, start)}))
        grads.append(torch.autograd.grad(loss, (start, down, up)))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)
    if not checkpointed:
        assert sizes[0] - sizes[1] == start.numel() * 4
