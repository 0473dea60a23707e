"""Freezing and pruning under every kind of optimizer: training goes on, and what is said of it is true."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from adapt.stepping import (
    ANEW,
    MASKED,
    OPTIMIZERS,
    Bare,
    Dummy,
    Front,
    Lookahead,
    Slotted,
    Soap,
    inside_backward,
)
from peft import get_peft_model
from torch import nn

import tapertune
from tapertune.adapt.optimizers import members
from tapertune.errors import TapertuneError
from tapertune.host import ChainLayer

TOTAL = 16
# tight budgets: some module is left without ranks
BUDGET = {"init_r": 4, "target_r": 1, "tinit": 2, "tfinal": 6, "deltaT": 2}
FREEZING = {"schedule": {"warmup": 2, "cooldown": 5, "every": 1}}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "adalora": ("adalora", BUDGET),
    "adalora on event": ("adalora", {**BUDGET, "plan": {"compact": "on_event"}}),
    "lora2": ("lora2", BUDGET),
    "sora": ("sora", {"r": 4, "threshold": 0.08}),
    "aflora": ("aflora", {"r": 4, "projection_scope": "all", "plan": FREEZING}),
}
PRUNING = [name for name in METHODS if name != "aflora"]


def make(method: str, width: int = 8) -> Any:
    name, values = METHODS[method]
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(width, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 4))
    return get_peft_model(base, tapertune.make_config(name, target_modules=["0", "2", "4"], **values))


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def backward(model: nn.Module, t: int) -> float:
    generator = torch.Generator().manual_seed(t)
    x = torch.randn(16, model.base_model.model[0].in_features, generator=generator)  # type: ignore[union-attr]
    loss = (model(x) - torch.sin(3 * x[:, :4])).pow(2).mean()
    loss.backward()
    return float(loss.detach())


def run(method: str, optimizer: Any, model: Any, steps: range = range(TOTAL), controller: Any = None) -> Any:
    controller = controller or tapertune.attach(model, optimizer, total_steps=TOTAL)
    still: dict[str, torch.Tensor] = {}
    for t in steps:
        for p in model.parameters():
            p.grad = None
        backward(model, t)
        optimizer.step()
        for name in controller.frozen:
            value = controller.handles[name].parameter.detach().clone()
            assert torch.equal(still.setdefault(name, value), value), f"{name} is frozen and moved"
    return controller


def ranks(model: nn.Module) -> list[int]:
    return [m.rank("default") for m in model.modules() if isinstance(m, ChainLayer)]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_trains_through(method: str, kind: str) -> None:
    model = make(method)
    optimizer = OPTIMIZERS[kind](trained(model))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        controller = run(method, optimizer, model)
        assert controller.step == TOTAL
        controller.finish()
        assert all(torch.isfinite(p).all() for p in model.parameters())
        # what has lost all its ranks is out of training, and the optimizer goes on after the end as well
        assert all(p.numel() for p in trained(model))
        if kind not in MASKED and method != "aflora":
            run(method, optimizer, model, range(2), controller)
    lines = [str(warning.message) for warning in told]
    if method == "aflora":
        assert len(controller.frozen) == 6
        assert lines == []
        return
    assert controller.ranks == dict(zip(controller.ranks, ranks(model), strict=True))
    if method == "sora":  # whose ranks go at the end
        assert sum(ranks(model)) < 12
        assert all("cannot be cut" in line for line in lines)
        return
    assert (sum(ranks(model)) <= 3 and 0 in ranks(model)) or sum(ranks(model)) == 3
    if kind in ANEW:
        assert len(lines) == 1 and "its state for them starts anew" in lines[0], lines
    elif kind in MASKED:
        assert len(lines) == 1 and "pruned ranks stay masked until the end of the run" in lines[0], lines
    else:
        assert lines == []


@pytest.mark.parametrize("method", PRUNING)
def test_square_factors_are_not_mistaken_for_preconditioners(method: str) -> None:
    """Rank 4 of width 4: a moment and a preconditioner have the same shape."""
    model = make(method, width=4)
    controller = run(method, OPTIMIZERS["adamw"](trained(model)), model)
    controller.finish()
    other = make(method, width=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(method, OPTIMIZERS["shampoo"](trained(other)), other).finish()


@pytest.mark.parametrize("kind", ["adamw", "lists: list", "lists: by id", "lookahead", "lookahead, lists", "chained"])
def test_what_can_be_cut_is_cut_and_not_lost(kind: str) -> None:
    """Removing or masking, the weights are the same: moments and slow weights of what stays go on."""
    outputs = []
    for compact in ("on_event", "never"):
        METHODS["masked"] = ("adalora", {**BUDGET, "init_r": 4, "target_r": 3, "plan": {"compact": compact}})
        model = make("masked")
        optimizer = OPTIMIZERS[kind](trained(model))
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        controller = tapertune.attach(model, optimizer, total_steps=TOTAL, plan=None)
        # one decision: a masked rank may come back at a later one, a removed one does not
        controller.runners[0].final = None
        for t in range(5):
            for p in model.parameters():
                p.grad = None
            backward(model, t)
            optimizer.step()
        outputs.append([m.get_delta_weight("default") for m in model.modules() if isinstance(m, ChainLayer)])
        assert sum(controller.ranks.values()) < 12
    del METHODS["masked"]
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_two_optimizers_side_by_side() -> None:
    """The controller follows one; the state of the other is cut as well, and nothing false is said."""
    model = make("adalora on event")
    parameters = trained(model)
    matrices = torch.optim.AdamW([p for p in parameters if p.dim() == 2], lr=1e-2)
    vectors = torch.optim.AdamW([p for p in parameters if p.dim() == 1], lr=1e-2)
    for first, second in ((matrices, vectors), (vectors, matrices)):
        controller = tapertune.attach(model, first, total_steps=TOTAL)
        for t in range(TOTAL):
            first.zero_grad()
            second.zero_grad()
            backward(model, t)
            second.step()
            first.step()
        assert sum(ranks(model)) == 3
        for optimizer in (first, second):
            for p, state in optimizer.state.items():
                assert state["exp_avg"].shape == p.shape
        controller.finish()


# ---- whether steps can be followed -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wrap", [Front, Bare, Lookahead])
def test_an_optimizer_around_another_is_followed_once_a_step(wrap: Any) -> None:
    model = make("aflora")
    optimizer = wrap(torch.optim.AdamW(trained(model), lr=1e-2))
    controller = run("aflora", optimizer, model, range(7))
    assert controller.step == 7 and controller.frozen
    controller.detach()
    optimizer.step()
    assert controller.step == 7
    again = tapertune.attach(model, optimizer, total_steps=TOTAL)
    run("aflora", optimizer, model, range(2), again)
    assert again.step == 2 and controller.step == 7


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda p: Slotted(torch.optim.AdamW(p)), r"\(Slotted\) has no hooks and its step cannot be followed"),
        (lambda p: object(), r"the optimizer is object; it must be a torch optimizer"),
        (lambda p: None, r"the optimizer is NoneType; it must be"),
        (lambda p: torch.optim.AdamW, r"the optimizer is type; it must be"),
        (lambda p: Bare(torch.optim.AdamW([nn.Parameter(torch.ones(2))])), r"\(Bare\) steps on none of the adapter's"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(optimizer: Any, message: str) -> None:
    model = make("adalora")
    with pytest.raises(TapertuneError, match=message) as caught:
        tapertune.attach(model, optimizer(trained(model)), total_steps=TOTAL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("method", [*METHODS, "l1"])
def test_steps_inside_backward(method: str, set_to_none: bool) -> None:
    """Where scores or penalties are wanted, the line comes before anything has been decided."""
    METHODS["l1"] = ("sora", {"sparse_lambda": 0.1})
    model = make(method)
    del METHODS["l1"]
    optimizer = inside_backward(trained(model), set_to_none)
    if method == "sora":  # a threshold on values: no gradient is needed
        assert run(method, optimizer, model).step == TOTAL
        return
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL)
    with pytest.raises(
        TapertuneError, match=r"no factor of adapter 'default' had a gradient .*Dummy.* inside backward"
    ):
        for t in range(TOTAL):
            backward(model, t)
            optimizer.step()
    assert not controller.frozen and (method == "l1" or ranks(model) == [4, 4, 4])


def test_adapters_that_take_turns_are_not_mistaken_for_that() -> None:
    model = make("adalora")
    model.add_adapter("other", tapertune.make_config("adalora", target_modules=["0", "2", "4"], **BUDGET))
    parameters = [p for name, p in model.named_parameters() if "tapertune" in name]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    controllers = []
    for name in ("default", "other"):
        model.set_adapter(name)
        controllers.append(tapertune.attach(model, optimizer, total_steps=2 * TOTAL, adapter_name=name))
    for t in range(2 * TOTAL):
        model.set_adapter(("default", "other")[t % 2])
        optimizer.zero_grad()
        backward(model, t)
        optimizer.step()
    assert [c.step for c in controllers] == [2 * TOTAL] * 2
    for controller in controllers:
        controller.finish()
        assert sum(controller.ranks.values()) == 3


def test_an_optimizer_that_is_not_the_one_attached_is_named() -> None:
    model = make("aflora")
    wrong = torch.optim.SGD(trained(model))
    right = torch.optim.SGD(trained(model))
    tapertune.attach(model, wrong, total_steps=TOTAL)
    backward(model, 0)
    with pytest.warns(UserWarning, match="whose plan nobody runs .its controller was given another optimizer"):
        for _ in range(3):
            right.step()


def test_members() -> None:
    parameters = [nn.Parameter(torch.ones(2))]
    inner = Soap(parameters)
    outer = Front(Lookahead(inner))
    assert [type(one) for one in members(outer)] == [Front, Lookahead, Soap]
    looped = Dummy(parameters, {})
    looped.me = looped  # type: ignore[attr-defined]
    assert members(looped) == [looped]
