"""Whether a saved state is of the same run, and an optimizer's state for an optimizer that was made anew."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ..errors import TapertuneError
from .plan import Plan, make_plans, present_names
from .runner import Runner

STATE_VERSION = 1
Layout = list[list[str | None]]
"""The parameters of each group of an optimizer: the factor's name, or None for what is no factor of the adapter."""


def runner_tensors(runners: Sequence[Runner]) -> dict[str, Tensor]:
    """All runners' averages, under their places in the plans."""
    return {
        f"{i}.{key}": value
        for i, runner in enumerate(runners)
        if runner.averages is not None and runner.averages.names
        for key, value in runner.averages.state_dict().items()
    }


def load_runners(runners: Sequence[Runner], state: Mapping[str, Any], started: set[str]) -> None:
    """Lets runners go on from a controller's saved state; ``started`` as for ``Runner.load``."""
    for i, (runner, values) in enumerate(zip(runners, state["json"]["runners"], strict=True)):
        prefix = f"{i}."
        tensors = {k.removeprefix(prefix): v for k, v in state["tensors"].items() if k.startswith(prefix)}
        runner.load(values, tensors, started)


def check_same_run(saved: Mapping[str, Any], method: str, plans: Sequence[Plan], total_steps: int) -> None:
    """Raises TapertuneError, naming the field, where a saved run had another method, plan or length, or where its state
    is of a newer schema."""
    if saved["version"] > STATE_VERSION:
        raise TapertuneError(
            f"controller state of schema {saved['version']}; this tapertune reads up to {STATE_VERSION}"
        )
    mine = {"method": method, "plan": [plan.to_dict() for plan in plans], "total_steps": total_steps}
    theirs = {key: saved[key] for key in mine}
    theirs["plan"] = [plan.to_dict() for plan in make_plans(present_names(saved["plan"]))]
    for key in mine:
        for path, old, new in _differences(key, theirs[key], mine[key]):
            raise TapertuneError(f"the saved run had {path} {old!r}, this one has {new!r}; they must be equal")


def check_names(saved: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises TapertuneError where a saved state names a factor that the adapter does not have, has another number of
    plans' states, or is not of one moment."""
    if len(saved["runners"]) != len(make_plans(present_names(saved["plan"]))):
        raise TapertuneError(f"the saved state is damaged: it holds the states of {len(saved['runners'])} plans")
    listed = [saved.get("started", ())]
    listed += [names for state in saved["runners"] for names in (state["watched"], state["names"], state["frozen"])]
    for name in (name for names in listed for name in names):
        if name not in known:
            raise TapertuneError(f"the saved run had the factor {name!r}, which this model's adapter does not have")
    if saved["step"] > saved["total_steps"] and saved["total_steps"]:
        raise TapertuneError(f"the saved state is damaged: step {saved['step']} of {saved['total_steps']}")


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ. 1 and 1.0 do: one is a step, the other the whole run."""
    if isinstance(old, dict) and isinstance(new, dict) and old.get("kind") == new.get("kind"):
        for key in {**old, **new}:
            yield from _differences(f"{path}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(path if len(old) == 1 else f"{path}[{i}]", one, other)
    elif json.dumps(old) != json.dumps(new):
        yield path, old, new


def layout(optimizer: Any, names: Mapping[int, str]) -> Layout:
    """Names of an optimizer's parameters; ``names`` are those of factors by the parameter's identity."""
    return [[names.get(id(p)) for p in group["params"]] for group in getattr(optimizer, "param_groups", ())]


class Rearranged:
    """Fits a saved optimizer state to an optimizer that was made without the factors that have frozen, or again with
    them: ``Optimizer.load_state_dict`` refuses groups of another size.

    Args:
        optimizer: whose next ``load_state_dict`` is looked at.
        saved: the layout of the optimizer that was saved.
        names: of this one's factors, by identity of the parameter.
    """

    def __init__(self, optimizer: Any, saved: Layout, names: Mapping[int, str]) -> None:
        self._saved, self._mine = saved, layout(optimizer, names)
        self._remover: Any = None
        if isinstance(optimizer, Optimizer) and "_optimizer_load_state_dict_pre_hooks" in vars(optimizer):
            self._remover = optimizer.register_load_state_dict_pre_hook(lambda one, state: self._fit(state))

    def stop(self) -> None:
        if self._remover is not None:
            self._remover.remove()
            self._remover = None

    def _fit(self, state: dict[str, Any]) -> dict[str, Any] | None:
        groups = state.get("param_groups", [])
        sizes = [len(group["params"]) for group in groups]
        if sizes != [len(names) for names in self._saved] or len(groups) != len(self._mine):
            return None  # not the optimizer that was saved beside this state: torch says what is wrong with it
        if self._mine == self._saved:
            return None
        fresh = max((index for group in groups for index in group["params"]), default=-1) + 1
        fitted = []
        for group, theirs, mine in zip(groups, self._saved, self._mine, strict=True):
            indices = _matching(group["params"], theirs, mine, fresh)
            fresh += len(mine)
            fitted.append({**group, "params": indices})
        used = {index for group in fitted for index in group["params"]}
        return {**state, "param_groups": fitted, "state": {k: v for k, v in state["state"].items() if k in used}}


def _matching(saved: Sequence[int], theirs: Sequence[str | None], mine: Sequence[str | None], fresh: int) -> list[int]:
    """Which of the saved indices each parameter has: factors by name, others in order; new ones where it has none."""
    named = {name: index for name, index in zip(theirs, saved, strict=True) if name is not None}
    others = [index for name, index in zip(theirs, saved, strict=True) if name is None]
    if len(others) != mine.count(None):
        return list(saved)
    waiting = iter(others)
    return [next(waiting) if name is None else named.get(name, fresh + i) for i, name in enumerate(mine)]
