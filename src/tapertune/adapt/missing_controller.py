"""Which controllers are at work, and a warning for the run that everybody has once: a method whose plan nobody runs,
and so a constant LoRA.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from .optimizers import note_step

_MARK = "_tapertune_method"
_LOOKS = 3  # steps of an optimizer in which the controller of what it trains may not have moved yet


class AtWork(Protocol):
    """A controller, as it is known here.

    Attributes:
        method: of its adapter.
        step: optimizer steps so far.
        inside: whether the optimizer that it follows is in a step.
    """

    method: str
    step: int

    @property
    def inside(self) -> bool: ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """Those of its adapter that no other adapter has."""
        ...

    def retire(self) -> None:
        """Lets go for good: a later controller has the adapter now."""
        ...


_at_work: weakref.WeakSet[AtWork] = weakref.WeakSet()
_looks: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
_at_first: list[Callable[[], None]] = []


def at_first_adapter(act: Callable[[], None]) -> None:
    """Has something done when the first adapter with a plan is made or loaded: by then all libraries are imported."""
    _at_first.append(act)


def expects_a_controller(parameter: nn.Parameter, method: str) -> None:
    """Marks a parameter of a method with a plan."""
    while _at_first:
        _at_first.pop()()
    setattr(parameter, _MARK, method)


def is_followed(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether a controller is at work on one of these parameters."""
    asked = {id(parameter) for parameter in parameters}
    return any(not asked.isdisjoint(id(p) for p in controller.parameters()) for controller in list(_at_work))


def take_over(controller: AtWork) -> None:
    """Notes that a controller is at work. Any earlier one of the same adapter is not any more."""
    mine = {id(parameter) for parameter in controller.parameters()}
    for other in list(_at_work):
        if other is not controller and not mine.isdisjoint(map(id, other.parameters())):
            other.retire()
    _at_work.add(controller)


def leave_work(controller: AtWork) -> None:
    """Notes that a controller is at work no more."""
    _at_work.discard(controller)


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    looks = _looks.get(optimizer, 0)
    if looks >= _LOOKS:
        return
    note_step(optimizer)
    _looks[optimizer] = _LOOKS
    marked = {id(p): p for group in optimizer.param_groups for p in group["params"] if hasattr(p, _MARK)}
    if not marked:
        return
    owners = [(controller, {id(p) for p in controller.parameters()} & marked.keys()) for controller in list(_at_work)]
    methods = {getattr(p, _MARK) for key, p in marked.items() if not any(key in own for _, own in owners)}
    if methods:
        _warn(methods)
        return
    # an optimizer inside the one that is followed, or beside it
    waiting = [controller for controller, own in owners if own and not (controller.step or controller.inside)]
    if waiting and looks + 1 < _LOOKS:
        _looks[optimizer] = looks + 1
    elif waiting:
        _warn({controller.method for controller in waiting}, " (its controller was given another optimizer)")


def _warn(methods: set[str], why: str = "") -> None:
    warnings.warn(
        f"an optimizer trains an adapter ({', '.join(sorted(methods))}) whose plan nobody runs{why}: nothing will be "
        "frozen or pruned, and no penalty applies. Give Trainer a tapertune.TapertuneCallback(), or call "
        "tapertune.attach(model, optimizer, total_steps=...) before the first step; a program's own Trainer gets the "
        "callback where TAPERTUNE_CALLBACK=1 is in the environment",
        stacklevel=3,
    )


def install() -> None:
    """From now on every optimizer is looked at once, after its first step."""
    register_optimizer_step_post_hook(_after_step)
