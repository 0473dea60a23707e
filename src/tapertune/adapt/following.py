"""Follows the steps of whatever steps: torch's optimizers through their hooks, anything else through its ``step``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from ..errors import TapertuneError
from .optimizers import is_optimizer

Hook = Callable[[Any], None]


class Following:
    """Calls something before and after each step of an optimizer.

    Args:
        optimizer: torch's, or an object with ``step`` and ``param_groups`` around one.
        before, after: called with the optimizer.

    Attributes:
        inside: whether the optimizer is in a step.

    Raises:
        TapertuneError: no optimizer, or one whose steps cannot be followed.
    """

    def __init__(self, optimizer: Any, before: Hook, after: Hook) -> None:
        check_optimizer(optimizer)
        self._before, self._after = before, after
        self.inside = False
        self._removers: list[Callable[[], None]] = []
        if _has_hooks(optimizer):
            first = optimizer.register_step_pre_hook(lambda one, args, kwargs: self._begin(one))
            second = optimizer.register_step_post_hook(lambda one, args, kwargs: self._end(one))
            self._removers = [first.remove, second.remove]
        else:
            self._wrap(optimizer)

    def _wrap(self, optimizer: Any) -> None:
        step, own = optimizer.step, vars(optimizer).get("step") if hasattr(optimizer, "__dict__") else None

        @functools.wraps(step)
        def followed(*args: Any, **kwargs: Any) -> Any:
            self._begin(optimizer)
            result = step(*args, **kwargs)
            self._end(optimizer)
            return result

        try:
            optimizer.step = followed
        except AttributeError as error:
            raise TapertuneError(
                f"the optimizer ({type(optimizer).__name__}) has no hooks and its step cannot be followed: attach to "
                "the torch optimizer inside it"
            ) from error

        def remove() -> None:
            if vars(optimizer).get("step") is not followed:
                return  # somebody has wrapped it again: what is inside calls nothing any more
            if own is None:
                del optimizer.step
            else:
                optimizer.step = own

        self._removers = [remove]

    def _begin(self, optimizer: Any) -> None:
        if self._removers:
            self.inside = True
            self._before(optimizer)

    def _end(self, optimizer: Any) -> None:
        if self._removers and self.inside:
            self._after(optimizer)
            self.inside = False

    def stop(self) -> None:
        for remove in self._removers:
            remove()
        self._removers, self.inside = [], False


def check_optimizer(optimizer: Any) -> None:
    """Raises TapertuneError for what is no optimizer."""
    if not is_optimizer(optimizer):
        raise TapertuneError(
            f"the optimizer is {type(optimizer).__name__}; it must be a torch optimizer, or an object with step() and "
            "param_groups around one"
        )


def no_gradients(what: str, optimizer: Any) -> TapertuneError:
    """The error for a plan that finds no gradient where the optimizer steps; ``what`` had none."""
    return TapertuneError(
        f"{what} had a gradient when the optimizer ({type(optimizer).__name__}) stepped, so the plan cannot score or "
        "penalise anything: an optimizer that steps inside backward (LOMO, layer-wise GaLore or APOLLO, hooks on "
        "parameters) or that computes gradients itself (a closure) needs a method without a plan, and the loss has to "
        "depend on the adapter"
    )


def not_its_parameters(optimizer: Any) -> TapertuneError:
    """The error for a plan over an optimizer of other parameters."""
    return TapertuneError(
        f"the optimizer ({type(optimizer).__name__}) steps on none of the adapter's parameters, so the plan could "
        "score, freeze and prune nothing. DeepSpeed's stages 1 and 2 step on copies of them: train with several "
        "processes without it (DDP), or a method without a plan"
    )


def _has_hooks(optimizer: Any) -> bool:
    """Whether torch calls step hooks of this optimizer: its class may leave torch's ``__init__`` out."""
    return (
        isinstance(optimizer, Optimizer)
        and "_optimizer_step_pre_hooks" in vars(optimizer)
        and "_optimizer_step_post_hooks" in vars(optimizer)
        and getattr(type(optimizer).step, "hooked", False)
    )
