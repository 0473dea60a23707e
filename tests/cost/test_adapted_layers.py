"""The declared operations of every method, in every state of freezing and by every kernel, are what torch counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import tapertune
from tapertune.cost.adapted_layers import adapted_layers
from tapertune.host import ChainLayer, adapter_parameters
from tapertune.kernels import KERNELS, Path, pass_flops
from tapertune.methods import METHODS

WIDTH, INNER = 64, 96


class Block(nn.Module):
    """Three layers that read one input, and two that read what comes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.query(x) * self.key(x) + self.value(x)
        return self.down(torch.tanh(self.up(seen)))


TARGETS = ["query", "key", "value", "up", "down"]
# Which factors freeze: (module, factor, whether it is a matrix, its place in the module from either end).
Freezes = Callable[[str, str, bool, int, int], bool]
STATES: dict[str, Freezes] = {
    "nothing": lambda *_: False,
    "first": lambda module, name, matrix, first, last: first == 0,
    "last": lambda module, name, matrix, first, last: last == 0,
    "matrices": lambda module, name, matrix, first, last: matrix,
    "vectors": lambda module, name, matrix, first, last: not matrix,
    "inner": lambda module, name, matrix, first, last: first > 0 and last > 0,
    "first of one": lambda module, name, matrix, first, last: module == "key" and first == 0,
    "first of all but one": lambda module, name, matrix, first, last: module != "query" and first == 0,
    "all of one": lambda module, *_: module == "value",
    "lower": lambda module, *_: module in ("query", "key", "value"),
    "everything": lambda *_: True,
}


def adapted(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = tapertune.make_config(name, target_modules=TARGETS, init_weights=False, **settings)
    return get_peft_model(Block(), config)


def states(model: Any, *names: str) -> Iterator[str]:
    """Brings a model into the named states (all, without names), one after the other."""
    handles = adapter_parameters(model)
    parameters = [h.parameter for h in handles]
    flags = [parameter.requires_grad for parameter in parameters]  # a method may hold factors from the start
    inside = {h.module: [other.factor for other in handles if other.module == h.module] for h in handles}
    for state in names or STATES:
        for handle, parameter, flag in zip(handles, parameters, flags, strict=True):
            place = inside[handle.module].index(handle.factor)
            last = len(inside[handle.module]) - 1 - place
            freezes = STATES[state](handle.module, handle.factor, handle.matrix, place, last)
            parameter.requires_grad_(flag and not freezes)
        yield state


def declared(model: Any, tokens: int, input_grad: bool) -> int:
    """The base layers' operations and the adapters'."""
    groups = adapted_layers(model)
    assert [list(group) for group in groups] == [["query", "key", "value"], ["up"], ["down"]]
    total = 0
    for group in groups:
        for layer in group.values():
            total += 2 * tokens * layer.sizes["d_in"] * layer.sizes["d_out"] * (1 + input_grad)
        total += pass_flops(list(group.values()), tokens, input_grad=input_grad)
        input_grad = input_grad or any(layer.trains for layer in group.values())
    return total


def counted(model: Any, tokens: int, input_grad: bool, dtype: torch.dtype = torch.float32) -> int:
    x = torch.randn(2, tokens // 2, WIDTH, dtype=dtype, requires_grad=input_grad)
    with FlopCounterMode(display=False) as counter:
        y = model(x)
        if y.requires_grad:
            y.sum().backward()
    return counter.get_total_flops()


METHOD_FORMS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in METHODS),
    ("aflora", {"projection_scope": "all"}),
    ("elora", {"r": 4, "shared": False}),
    ("lora2", {"init_r": 3, "k": 5}),
    ("loran", {"r": 4, "p_sizes": (5, 6), "offsets": True}),
    ("loran", {"r": 4, "offsets": True}),
]


KEPT_QUICK = ("nothing", "last", "matrices", "first of one")  # states in which kernels but the usual one are looked at


@pytest.mark.parametrize(
    ("kernel", "some"),
    [
        *((kernel, () if kernel == "native" else KEPT_QUICK) for kernel in KERNELS),
        *(pytest.param(kernel, (), marks=pytest.mark.slow) for kernel in KERNELS if kernel != "native"),
    ],
)
@pytest.mark.parametrize(("name", "settings"), METHOD_FORMS, ids=str)
def test_operations_are_those_that_are_counted(
    name: str, settings: dict[str, Any], kernel: str, some: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every state, or in some."""
    monkeypatch.setenv("TAPERTUNE_KERNEL", kernel)
    model = adapted(name, **settings)
    for state in states(model, *some):
        for input_grad in (True, False):
            for tokens in (6, 512):  # at 512 ELoRA's layers are folded, at 6 they are not
                found = counted(model, tokens, input_grad)
                assert found == declared(model, tokens, input_grad), (state, input_grad, tokens)


@pytest.mark.parametrize(("name", "settings"), METHOD_FORMS, ids=str)
def test_small_inputs(name: str, settings: dict[str, Any], small_elements: Callable[[int], None]) -> None:
    """Each layer goes by itself, without a node."""
    small_elements(6 * WIDTH)
    model = adapted(name, **settings)
    for state in states(model):
        for tokens in (6, 512):
            assert counted(model, tokens, True) == declared(model, tokens, True), (state, tokens)


@pytest.mark.parametrize("name", METHODS)
def test_with_dropout_and_without_gradients(name: str) -> None:
    model = adapted(name, dropout=0.5)
    evaluated: dict[int, set[int]] = {6: set(), 512: set()}
    for state in states(model, "nothing", "matrices", "first of one", "everything"):
        for tokens, found in evaluated.items():
            made = counted(model.train(), tokens, input_grad=False)
            assert made == declared(model, tokens, input_grad=False), (state, tokens)
            with torch.no_grad():
                found.add(counted(model.eval(), tokens, input_grad=False))
    # the last state is the one without anything to take gradients of
    assert evaluated == {tokens: {declared(model, tokens, input_grad=False)} for tokens in evaluated}


def test_elora_is_folded_where_that_is_said() -> None:
    model = adapted("elora")
    forms = {t: [g.path(t, True) for group in adapted_layers(model) for g in group.values()] for t in (6, 512)}
    assert Path.VECTORS not in forms[6] and set(forms[512]) == {Path.VECTORS}


@pytest.mark.parametrize("name", METHODS)
def test_in_half_precision(name: str) -> None:
    model = adapted(name)
    with torch.autocast("cpu", torch.bfloat16):
        for tokens in (6, 512):
            assert counted(model, tokens, input_grad=True) == declared(model, tokens, input_grad=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", METHODS)
def test_over_a_base_in_half_precision(name: str, dtype: torch.dtype) -> None:
    """The adapter is in float32, as PEFT makes it."""
    model = adapted(name)
    for layer in (m for m in model.modules() if isinstance(m, ChainLayer)):
        layer.base_layer.to(dtype)
    for state in states(model):
        for tokens in (6, 512):
            assert counted(model, tokens, True, dtype) == declared(model, tokens, True), (state, tokens)


@pytest.mark.parametrize(("name", "settings"), METHOD_FORMS, ids=str)
def test_a_module_of_one_weight(name: str, settings: dict[str, Any]) -> None:
    model = adapted(name, **settings)
    for _ in states(model, "lower"):
        lower = {h.module: h for h in adapter_parameters(model) if h.module in ("query", "key", "value")}
        assert all(handle.merge_frozen() for handle in lower.values())
    making = sum(layer.merging() for group in adapted_layers(model)[:1] for layer in group.values())
    first = counted(model, 6, input_grad=False)
    assert counted(model, 6, input_grad=False) == declared(model, 6, input_grad=False) == first - making
    assert all(layer.path(6, False) is Path.MERGED for layer in adapted_layers(model)[0].values())


def test_layers_that_go_by_themselves_from_now_on() -> None:
    model = adapted("aflora", projection_scope="all")
    for _ in states(model, "first of one"):
        joined = sum(pass_flops(list(group.values()), 6, input_grad=True) for group in adapted_layers(model))
        next(m for m in model.modules() if isinstance(m, ChainLayer)).shared_input.apart = True
        groups = adapted_layers(model)
        assert [list(group) for group in groups] == [["query"], ["key"], ["value"], ["up"], ["down"]]
        alone = sum(pass_flops(list(group.values()), 6, input_grad=True) for group in groups)
        assert joined - alone == 6 * 2 * 4 * WIDTH  # with others, the gradient of the key's A is taken all the same
