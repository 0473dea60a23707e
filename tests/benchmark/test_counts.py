from __future__ import annotations

import functools

import pytest
import torch

from tapertune.benchmark.base_models import Base, make_base
from tapertune.benchmark.candidate import Candidate
from tapertune.benchmark.counts import _tensors, count, graph_nodes, saved_storages
from tapertune.benchmark.setting import Setting
from tapertune.benchmark.variants import VARIANTS, build


def by_hooks(candidate: Candidate) -> int:
    """The usual way to see what is saved, right where no kernel steps aside for hooks."""
    weights = {t.untyped_storage().data_ptr() for t in (*candidate.model.parameters(), *candidate.model.buffers())}
    sizes: dict[int, int] = {}
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)  # else another one may come to lie where this one was
        if tensor.dim():
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = candidate.loss()
    assert loss.requires_grad
    return sum(size for place, size in sizes.items() if place not in weights)


@pytest.mark.parametrize("name", ["floor", "peft-lora", "peft-vera-256", "naive-aflora", "naive-loran"])
def test_the_graph_holds_what_hooks_see(base: Base, name: str) -> None:
    candidate = build(name, base)
    assert count(candidate).saved_bytes == by_hooks(candidate)


def test_a_function_written_in_python_hides_nothing() -> None:
    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(x.exp())
            held = x * 2
            ctx.rebuild = lambda: held
            ctx.many = {"list": [x * 3], "partial": functools.partial(torch.add, x * 4)}
            return x.clone()

        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def, override]
            return grad

    x = torch.ones(1000, requires_grad=True)
    saved = saved_storages(graph_nodes(Keeps.apply(x).sum()), skip={x.untyped_storage().data_ptr()})
    assert sum(saved.values()) == 4 * 4000


def test_every_node_once() -> None:
    x = torch.ones(3, requires_grad=True)
    y = x.exp()
    names = [node.name() for node in graph_nodes((y * y + y).sum())]
    assert sorted(names) == sorted(
        ["SumBackward0", "AddBackward0", "MulBackward0", "ExpBackward0", "torch::autograd::AccumulateGrad"]
    )
    assert list(_tensors(["text", 3, None])) == []


OURS = [name for name in VARIANTS if name.startswith("ours-")]


@pytest.mark.parametrize("name", OURS)
def test_counts_of_a_chain(base: Base, name: str) -> None:
    candidate, floor = build(name, base), count(build("floor", base))
    found = count(candidate)
    assert candidate.optimizer is not None and found.flops_declared is not None
    few_tokens = name.startswith("ours-elora")  # for its rank, and needs no node
    assert found.flops > floor.flops and (found.kernel_nodes == 0) is few_tokens and floor.kernel_nodes == 0
    assert found.flops - floor.flops == found.flops_declared
    # two moments of four bytes a parameter, and at most a step count a tensor; nothing of what is frozen
    tensors = sum(p.requires_grad for p in candidate.model.parameters())
    assert 0 <= found.optimizer_bytes - 8 * found.trained <= 4 * tensors


def test_declared_operations_follow_the_form_that_is_chosen() -> None:
    base = make_base("bert-2x128", Setting.model_validate({"batch": 4, "length": 128}))
    found, floor = count(build("ours-elora-256", base)), count(build("floor", base))
    assert found.flops - floor.flops == found.flops_declared
    assert found.kernel_nodes == 12, "a folded layer is a node by itself"


def test_what_is_not_ours_declares_nothing_and_calls_no_kernel(base: Base) -> None:
    found = count(build("peft-lora", base))
    assert found.flops_declared is None and found.kernel_nodes == 0
    assert found.trained == 2 * 8 * (4 * (128 + 128) + 2 * (128 + 512))
