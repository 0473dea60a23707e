"""What a controller knows of its run: what trains now and on average, what has frozen, which ranks are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .finite import FiniteSteps
from .parameter import Handle
from .runner import Runner
from .tally import Tally


class LayersKept(Protocol):
    """What keeps the states that frozen layers make of rows, as the controller knows it."""

    def save(self) -> None:
        """Has a run that goes on from here find them again."""
        ...

    def close(self) -> None: ...

    def summary(self) -> dict[str, Any]: ...


class Facts:
    """Read from the runners and the tally; nothing here acts."""

    handles: Mapping[str, Handle]
    runners: Sequence[Runner]
    tally: Tally
    finite: FiniteSteps
    cache: LayersKept | None
    step: int
    other_trainable: int
    _training: set[str]

    @property
    def trainable(self) -> int:
        """Parameters that train now, inside the adapter and outside."""
        return self.tally.now

    @property
    def trainable_start(self) -> int:
        """Parameters that trained when the run began."""
        return self.tally.start

    @property
    def average_trainable(self) -> float:
        """Mean over the steps so far of the parameters that trained in each."""
        return self.tally.average(self.step)

    @property
    def frozen(self) -> dict[str, int]:
        """The factors frozen so far, with the index of the step at which each froze."""
        return {name: step for runner in self.runners for name, step in runner.frozen.items()}

    @property
    def freezable(self) -> tuple[str, ...]:
        """The factors that a plan may freeze, or has frozen."""
        frozen = self.frozen
        names = dict.fromkeys(name for runner in self.runners for name in runner.scope.freezable)
        return tuple(n for n in names if n in self._training or n in frozen)

    @property
    def ranks(self) -> dict[str, int]:
        """Rank components in use by module, where a plan prunes."""
        return {module: rank for runner in self.runners for module, rank in runner.ranks.items()}

    def progress(self) -> tuple[int, int, int]:
        """(parameters that train now, matrices frozen, matrices that could freeze)."""
        return self.trainable, len(self.frozen), len(self.freezable)

    def summary(self) -> dict[str, Any]:
        """Counts over the run so far."""
        return {
            "trainable_start": self.tally.start,
            "trainable_average": self.average_trainable,
            "trainable_end": self.trainable,
            "other_trainable": self.other_trainable,
            "frozen": len(self.frozen),
            "freezable": len(self.freezable),
            "last_freeze_step": max(self.frozen.values(), default=None),
            "ranks": self.ranks,
            "steps": self.step,
            "skipped": self.finite.skipped,
            **({} if self.cache is None else {"cache": self.cache.summary()}),
            **self._routed(),
        }

    def _routed(self) -> dict[str, int]:
        """Of an adapter with experts, how many no token has reached."""
        experts = {h.module: h for h in self.handles.values() if getattr(h, "routed", False)}
        return {"experts_unreached": sum(bool(getattr(h, "unreached", 0)) for h in experts.values())} if experts else {}
