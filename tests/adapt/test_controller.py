"""What the controller costs at each step, and optimizers that unscale and skip by themselves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from adapt.handles import Factor, gradients, triplets
from torch.utils._python_dispatch import TorchDispatchMode

from tapertune.adapt import Controller, make_plans

RAMP = {"kind": "cubic", "warmup": 2, "cooldown": 10, "every": 5}
ADALORA = {
    "importance": {"kind": "|g*p|"}, "observe": "after", "schedule": RAMP, "penalties": [{"kind": "orthogonality"}],
    "policy": {"kind": "rank_budget", "gate": "E", "target": 2},
}  # fmt: skip
AFLORA = {"schedule": RAMP, "importance": {"kind": "|g|", "window": 3}, "policy": {"kind": "lowest_fraction"}}
BOTH = [ADALORA, {"schedule": RAMP, "policy": {"kind": "mean_below_quantile", "factors": ["A"]}}]
TOTAL = 40
# operations that wait for a device
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique2", "tolist"}


class Operations(TorchDispatchMode):
    """Takes down the names of the operations inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self._tolist = torch.Tensor.tolist

    def __enter__(self) -> Operations:
        # reads memory past the dispatcher
        torch.Tensor.tolist = lambda tensor: self.names.append("tolist") or self._tolist(tensor)  # type: ignore[method-assign]
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        torch.Tensor.tolist = self._tolist  # type: ignore[method-assign]
        super().__exit__(*args)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def follow(
    factors: list[Factor], plan: Any, optimizer: torch.optim.Optimizer | None = None, **values: Any
) -> tuple[Controller, torch.optim.Optimizer]:
    controller = Controller(factors, make_plans(plan), TOTAL, **values)
    optimizer = optimizer or torch.optim.SGD([f.home[f.factor] for f in factors], lr=0.1)
    return controller.attach(optimizer), optimizer


def operations(factors: list[Factor], plan: Any, steps: int, **values: Any) -> list[list[str]]:
    """Names of the operations of each step, the optimizer's and one of the controller's hooks together."""
    _, optimizer = follow(factors, plan, **values)
    found = []
    for t in range(steps):
        gradients(factors, t)
        with Operations() as seen:
            optimizer.step()
        found.append(seen.names)
    return found


@pytest.mark.parametrize("plan", [ADALORA, AFLORA, BOTH], ids=["adalora", "aflora", "both"])
def test_only_decisions_wait_for_the_device(plan: Any) -> None:
    steps = operations(triplets([(6, 8)] * 3), plan, 35, max_skipped_steps=None)
    waiting = [t for t, names in enumerate(steps) if WAITING & set(names)]
    assert waiting and all(t % 5 == 0 or t == 31 for t in waiting), "31: the first step after the ramp"
    assert set(waiting) >= {10, 15}


@pytest.mark.parametrize("plan", [ADALORA, AFLORA, BOTH], ids=["adalora", "aflora", "both"])
def test_a_look_for_what_is_not_finite_waits_once_a_step(plan: Any) -> None:
    off, on = (operations(triplets([(6, 8)] * 3), plan, 35, **v) for v in ({"max_skipped_steps": None}, {}))
    waits = [[sum(name in WAITING for name in names) for names in steps] for steps in (off, on)]
    assert [more - less for less, more in zip(*waits, strict=True)] == [1] * 35


@pytest.mark.parametrize("plan", [ADALORA, AFLORA], ids=["adalora", "aflora"])
def test_a_step_takes_no_more_operations_for_more_modules(plan: Any) -> None:
    shapes = [(6, 8), (8, 6), (6, 6)]

    def count(layers: int) -> int:
        factors = triplets(shapes * layers)
        names = operations(factors, plan, 5)[4]
        plain = triplets(shapes * layers)
        optimizer = torch.optim.SGD([f.home[f.factor] for f in plain], lr=0.1)
        gradients(plain, 4)
        with Operations() as alone:
            optimizer.step()
        views = ("select", "unbind", "stack", "split", "view", "detach")
        return sum(name not in views for name in names) - len(alone.names)

    assert count(2) == count(8)


@pytest.mark.parametrize("plan", [ADALORA, AFLORA], ids=["adalora", "aflora"])
def test_parameters_are_looked_up_once_and_after_freezing(plan: Any) -> None:
    factors = triplets([(6, 8)] * 3)
    _, optimizer = follow(factors, plan)
    looked_up = []
    for t in range(5):
        gradients(factors, t)
        factors[0].lookups.clear()
        optimizer.step()
        looked_up.append(len(factors[0].lookups))
    assert looked_up[0] and not any(looked_up[1:])


@pytest.mark.parametrize("values", [{"compact": "never"}, {"distributed": True}], ids=["never", "distributed"])
def test_masks_that_are_final_are_put_on_again_and_nothing_is_computed(values: dict[str, Any]) -> None:
    factors = triplets([(6, 8)] * 3)
    plan = {**ADALORA, "penalties": [], **{k: v for k, v in values.items() if k == "compact"}}
    controller, optimizer = follow(factors, plan, distributed="distributed" in values, max_skipped_steps=None)
    gates = [f.home["E"] for f in factors if f.factor == "E"]
    kept: list[torch.Tensor] = []
    for t in range(TOTAL):
        gradients(factors, t)
        with Operations() as seen:
            optimizer.step()
        if t == 31:
            kept = [gate != 0 for gate in gates]
        if t > 31:
            assert all(torch.equal(gate != 0, k) for gate, k in zip(gates, kept, strict=True))
            assert not {"kthvalue", "mean", *WAITING} & set(seen.names)
    assert sum(controller.ranks.values()) == 6


# ---- loss scaling by fused optimizers --------------------------------------------------------------------------------


def scaled_run(scale: float | None, bad: int | None = None) -> tuple[Controller, list[Factor]]:
    """Fused AdamW over random gradients, scaled as a loss scaler would have them, those of one step not finite."""
    factors = triplets([(6, 8), (8, 6), (6, 8)])
    values = [f.home[f.factor] for f in factors]
    optimizer = torch.optim.AdamW(values, lr=0.01, fused=True)
    controller, _ = follow(factors, ADALORA, optimizer)
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    for t in range(TOTAL):
        gradients(factors, t)
        state = copy.deepcopy(controller.state_dict())
        if t == bad:
            for p in values:
                p.grad = torch.full_like(p, float("inf"))
        if scaler is None:
            optimizer.step()
            continue
        scaler.scale(torch.zeros(()))  # makes its scale
        for p in values:
            assert p.grad is not None
            p.grad.mul_(scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()
        if t == bad:
            after = controller.state_dict()
            assert after["json"] == state["json"]
            assert all(torch.equal(after["tensors"][k], v) for k, v in state["tensors"].items())
    return controller, factors


def test_a_fused_optimizer_that_unscales_makes_the_same_run() -> None:
    """Penalties are added to scaled gradients, scores see unscaled ones."""
    plain, one = scaled_run(None)
    scaled, two = scaled_run(1024.0)
    assert plain.ranks == scaled.ranks and sum(plain.ranks.values()) == 6
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a.parameter, b.parameter, atol=1e-6, rtol=1e-5)


def test_a_step_that_a_fused_optimizer_skips_moves_nothing() -> None:
    controller, _ = scaled_run(1024.0, bad=4)
    assert controller.step == TOTAL - 1
