"""A plan: importance x schedule x policy, serialisable, each piece exchangeable on its own."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import TapertuneError, bad_value, unknown
from . import spec
from .decision import Policy
from .importance import IMPORTANCES, Gradient, Importance
from .penalties import PENALTIES, Penalty
from .policies import POLICIES, LowestFraction
from .schedules import Constant, Cubic, Join, Quadratic, Schedule

SCHEDULES = (Cubic, Quadratic, Constant, Join)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is scored, when something is decided, and how.

    Several plans can run side by side: a list of them stands wherever one does.

    Attributes:
        importance: scores of the elements.
        schedule: fraction left at each step.
        policy: which matrices freeze, or which ranks stay.
        penalties: gradients added before each optimizer step.
        final_update: whether a matrix still takes the update of the step at which it freezes (released GLUE code; the
            released GSM8K code clears its gradient first).
        observe: ``before`` the optimizer step, or ``after`` it: the new weights with the gradients that made them
            (AdaLoRA's released code; it matters to importances that contain the weight).
        compact: when pruned ranks are removed: at the ``end``, once the decision is final; ``on_event``, at each
            decision, so that each saves from then on what it took, and none comes back at a later decision as a masked
            one may; ``never``, but masked, as all released codes do.
    """

    importance: Importance = field(default_factory=Gradient)
    schedule: Schedule = field(default_factory=Cubic)
    policy: Policy = field(default_factory=LowestFraction)
    penalties: tuple[Penalty, ...] = ()
    final_update: bool = True
    observe: str = "before"
    compact: str = "end"

    def __post_init__(self) -> None:
        for name, allowed in (("observe", ("before", "after")), ("compact", ("end", "on_event", "never"))):
            if getattr(self, name) not in allowed:
                raise unknown(f"plan.{name}", getattr(self, name), allowed)

    def to_dict(self) -> dict[str, Any]:
        """JSON values from which ``from_dict`` makes the same plan."""
        return {
            "importance": spec.to_dict(self.importance),
            "schedule": spec.to_dict(self.schedule),
            "policy": spec.to_dict(self.policy),
            "penalties": [spec.to_dict(penalty) for penalty in self.penalties],
            "final_update": self.final_update,
            "observe": self.observe,
            "compact": self.compact,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that a dictionary describes; what it leaves out keeps its default.

        Raises:
            TapertuneError: an unknown part, kind or field (the nearest is suggested), or a value out of range.

        >>> Plan.from_dict({"schedule": {"kind": "quadratic", "warmup": 0.3, "cooldown": 0.3}}).schedule
        Quadratic(warmup=0.3, cooldown=0.3, every=10)
        """
        data = _present_policy(data, warn=True)
        parts = {"importance": IMPORTANCES, "schedule": SCHEDULES, "policy": POLICIES}
        made: dict[str, Any] = {}
        for key, value in data.items():
            if key in parts:
                made[key] = spec.from_dict(key, parts[key], value)
            elif key == "penalties":
                if not isinstance(value, list | tuple):
                    raise bad_value("plan.penalties", value, "a list of mappings")
                made[key] = tuple(spec.from_dict("penalty", PENALTIES, penalty) for penalty in value)
            elif key in ("observe", "compact"):
                made[key] = value
            elif key == "final_update":
                if not isinstance(value, bool):
                    raise bad_value("plan.final_update", value, "true or false")
                made[key] = value
            else:
                raise unknown("part of plan", key, [field.name for field in dataclasses.fields(cls)])
        return cls(**made)


FORMER_NAMES = {"fold": "merge_frozen"}
"""Fields of policies, by the names that an earlier version gave them."""


def present_names(data: Any) -> Any:
    """A plan's dictionary, or several, as an earlier version may have written them, with the fields' present names."""
    if isinstance(data, list | tuple):
        return [present_names(part) for part in data]
    return _present_policy(data, warn=False) if isinstance(data, Mapping) else data


def _present_policy(data: Mapping[str, Any], *, warn: bool) -> Mapping[str, Any]:
    policy = data.get("policy")
    former = [name for name in FORMER_NAMES if isinstance(policy, Mapping) and name in policy]
    if not former:
        return data
    policy = dict(policy or {})
    for name in former:
        present = FORMER_NAMES[name]
        if present in policy:
            raise TapertuneError(f"policy.{name} is what policy.{present} was called before: give one of them")
        policy[present] = policy.pop(name)
        if warn:
            warnings.warn(f"policy.{name} is now policy.{present}", FutureWarning, stacklevel=2)
    return {**data, "policy": policy}


Spec = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def make_plans(data: Spec | None) -> list[Plan]:
    """The plans that a dictionary, a list of them, or nothing describes."""
    if data is None:
        return []
    if not isinstance(data, Mapping | list | tuple):
        raise bad_value("plan", data, "a mapping, or a list of mappings")
    return [Plan.from_dict(part) for part in ([data] if isinstance(data, Mapping) else data)]


def as_json(plans: Sequence[Plan]) -> Any:
    """Plans as JSON values from which ``make_plans`` makes them again: None for none, a list for several."""
    dictionaries = [plan.to_dict() for plan in plans]
    return (dictionaries or [None])[0] if len(dictionaries) < 2 else dictionaries


def merge(default: Spec | None, override: Spec | None) -> Any:
    """A method's default plan with a user's changes laid over it, piece by piece.

    A piece of another kind replaces the default piece whole; otherwise its fields are changed one by one. A list of
    plans replaces the default whole.

    >>> merge({"schedule": {"kind": "cubic", "every": 10}}, {"schedule": {"every": 5}})
    {'schedule': {'kind': 'cubic', 'every': 5}}
    """
    if override is None or not isinstance(override, Mapping) or not isinstance(default, Mapping | None):
        return default if override is None else override
    merged = dict(default or {})
    for key, value in override.items():
        old = merged.get(key)
        same = isinstance(old, Mapping) and isinstance(value, Mapping) and value.get("kind", old["kind"]) == old["kind"]
        merged[key] = {**old, **value} if same else value  # type: ignore[dict-item]
    return merged
