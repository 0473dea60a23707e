"""Subjects of tapertune's own: a method with its plan, and states of it that training reaches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..host import adapt_model, make_config
from ..integrations import attach
from .base_models import Base
from .candidate import RUN, Candidate, optimizer_of, share_copy

Build = Callable[[Base], Candidate]
_SETUP = 6  # steps of the short runs that bring a method into the state that is measured
_ACT_SOON = {"kind": "cubic", "warmup": 1, "cooldown": 3, "every": 1}
# Decides every ten steps from the first on, with next to nothing to decide yet.
_EARLY = {"kind": "cubic", "warmup": 0, "cooldown": 0, "every": 10}


def ours(method: str, **settings: Any) -> Build:
    """A method at the start of a long run: scores, penalties and decisions are part of its step."""

    def build(base: Base) -> Candidate:
        candidate = adapted(base, method, settings)
        return attached(candidate, _early(candidate), RUN)

    return build


def frozen(method: str, factors: Sequence[str], **settings: Any) -> Build:
    """A method after its plan has frozen some factors everywhere."""
    plan = {"schedule": _ACT_SOON, "policy": {"kind": "lowest_fraction", "factors": list(factors)}}

    def build(base: Base) -> Candidate:
        candidate = _run(adapted(base, method, settings), base, plan)
        assert candidate.controller is not None
        left = len(candidate.controller.freezable) - len(candidate.controller.frozen)
        assert not left, f"{left} matrices are not frozen"
        return candidate

    return build


def pruned(method: str, **settings: Any) -> Build:
    """A method with a rank budget, after the ranks above it have been removed."""

    def build(base: Base) -> Candidate:
        return _run(adapted(base, method, settings), base, {"schedule": _ACT_SOON})

    return build


def built_at_pruned_ranks(method: str, **settings: Any) -> Build:
    """The same method made with the ranks that ``pruned`` is left with, and its penalties; nothing is scored."""

    def build(base: Base) -> Candidate:
        cut = pruned(method, **settings)(base)
        assert cut.controller is not None
        candidate = adapted(base, method, {**settings, "ranks": cut.controller.ranks})
        return attached(candidate, {"policy": {"kind": "lowest_fraction", "factors": []}}, RUN)

    return build


def adapted(base: Base, method: str, settings: dict[str, Any]) -> Candidate:
    config = make_config(method, target_modules=list(base.targets), **settings)
    model = adapt_model(share_copy(base.model), config).train()
    return Candidate(model=model, batch=base.batch)


def _early(candidate: Candidate) -> dict[str, Any] | None:
    """The change to the method's plan that makes it decide early; None for a plan without a ramp, or no plan."""
    config = candidate.model.peft_config["default"]
    plan = config.row.plan(config.settings())
    return {"schedule": _EARLY} if plan and plan["schedule"]["kind"] == "cubic" else None


def attached(candidate: Candidate, plan: dict[str, Any] | None, total: int) -> Candidate:
    candidate.optimizer = optimizer_of(candidate.model)
    candidate.controller = attach(candidate.model, candidate.optimizer, total_steps=total, plan=plan)
    return candidate


def _run(candidate: Candidate, base: Base, plan: dict[str, Any]) -> Candidate:
    """A whole short run on few tokens, the controller left attached as it is at the end of a real one."""
    candidate.batch = base.small_batch()
    attached(candidate, plan, _SETUP)
    for _ in range(_SETUP):
        candidate.step()
    candidate.batch = base.batch
    return candidate
