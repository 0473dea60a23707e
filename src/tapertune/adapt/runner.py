"""One plan at work: its averages, its decisions, and the record of both."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TapertuneError
from .actuators import freeze
from .averages import Averages
from .decision import Decision
from .gates import Gates
from .importance import Scores
from .optimizers import forget
from .parameter import Handle
from .plan import Plan
from .reducers import Reducers
from .sharding import is_sharded
from .stacked import Module

# Steps between two looks at gates that a threshold moves all the time: whoever reads them waits for the device.
_LOOK = 10


class Runner:
    """Runs one plan over the factors of an adapter. The controller tells it when.

    Args:
        plan: what decides.
        handles: the adapter's factors by name.
        training: names of those that train now; the runner takes out what it freezes.
        total_steps: optimizer steps of the whole run.
        reducers: of several processes, which say what may be done to parameters.

    Attributes:
        final: the decision that stands since the schedule has settled; from then on it is only carried out.
    """

    def __init__(
        self, plan: Plan, handles: Mapping[str, Handle], training: set[str], total_steps: int, reducers: Reducers
    ) -> None:
        plan.schedule.check(total_steps)
        self.plan, self.handles, self.training = plan, handles, training
        self.total_steps, self.reducers = total_steps, reducers
        self.scope = plan.policy.scope(handles, training)
        self.gates = Gates(handles, self.scope.groups)
        self.frozen: dict[str, int] = {}
        self.compacted = False
        self.removed = False
        self._masks = False
        self.ranks = self._sizes = self.gates.sizes()
        self._looked = -_LOOK
        self.final: Decision | None = None
        self.refresh()
        self.averages = self._make_averages(self.scope.scored)

    def _make_averages(self, names: Sequence[str]) -> Averages | None:
        if not names:
            return None
        parameters = [self.handles[name].parameter for name in names]
        dtype = torch.float64 if parameters[0].dtype == torch.float64 else torch.float32
        shapes = [p.shape for p in parameters]
        routed = frozenset(name for name in names if getattr(self.handles[name], "routed", False))
        return Averages(self.plan.importance, list(names), shapes, parameters[0].device, dtype, routed)

    def _whole(self) -> dict[str, Tensor]:
        """By gate, that all components stay: of the groups that no gradient has reached."""
        unreached = set() if self.averages is None else set(self.averages.unreached())
        if not unreached:
            return {}
        groups = [group for group in self.scope.groups if any(name in unreached for name, _ in group.parts)]
        gates = {group.gate: self.handles[group.gate].parameter for group in groups}
        return {name: torch.ones(gate.numel(), dtype=torch.bool, device=gate.device) for name, gate in gates.items()}

    def refresh(self) -> None:
        """Looks parameters up anew where they are next needed: a look-up costs as much as some of the work on them."""
        self._scored: list[Tensor] | None = None
        self._modules: list[Module] | None = None
        self._sharded = any(is_sharded(handle.parameter) for handle in self.handles.values())

    def penalise(self, scale: float | Tensor) -> None:
        """Adds the penalties' gradients."""
        if not self.plan.penalties:
            return
        if self._modules is None:
            modules: dict[str, dict[str, Any]] = {}
            for handle in self.handles.values():
                modules.setdefault(handle.module, {})[handle.factor] = handle.parameter
            self._modules = list(modules.values())
        for penalty in self.plan.penalties:
            penalty.add(self._modules, scale)

    def reads(self, step: int, when: str) -> list[Tensor]:
        """The shards that ``penalise`` and ``observe`` read whole at this step: factors and gradients.

        Args:
            step: the run's.
            when: ``before`` the optimizer's step or ``after`` it.
        """
        if not self._sharded:
            return []
        values: set[str] = set()
        signals: set[str] = set()
        if when == "before":
            factors = {factor for penalty in self.plan.penalties for factor in penalty.factors}
            values |= {name for name, handle in self.handles.items() if handle.factor in factors}
        if self.plan.observe == when and self._observes(step) and self.averages is not None:
            signals |= set(self.averages.names)
            values |= signals if self.plan.importance.reads_weights else set()
        grads = [self.handles[name].parameter.grad for name in self.handles if name in signals]
        return [
            *(self.handles[name].parameter for name in self.handles if name in values),
            *(grad for grad in grads if grad is not None),
        ]

    def gate_shards(self) -> list[nn.Parameter]:
        """The gates, where they are shards."""
        return self.gates.parameters() if self._sharded else []

    def _observes(self, step: int) -> bool:
        return self.averages is not None and not self.plan.schedule.settled(step, self.total_steps)

    def observe(self, step: int, inverse_scale: float | Tensor) -> None:
        """Takes the present gradients into the averages, until the schedule has settled."""
        if self.averages is None or not self._observes(step):
            return
        if self._scored is None:
            self._scored = [self.handles[name].parameter for name in self.averages.names]
        self.averages.observe(step, self._scored, inverse_scale)

    def acts(self, step: int) -> bool:
        """Whether there is something to do at this step."""
        here = self.averages.names if self.averages is not None else self.scope.groups or self.scope.freeze_groups
        return bool(here) and not self.compacted and self.plan.schedule.acts(step, self.total_steps)

    def wants_gradients(self, step: int) -> bool:
        """Whether acting at this step makes no sense if no gradient has been there so far."""
        decides = self.averages is not None and self.plan.schedule.remaining(step, self.total_steps) < 1
        # where adapters take turns, the first steps may be another's
        return decides or (step >= 2 and (self.averages is not None or bool(self.plan.penalties)))

    def act(self, step: int, optimizer: Any | None, report: Callable[..., None], others: Sequence[Runner]) -> None:
        """Lets the policy decide if the schedule acts at this step, and does what it says."""
        schedule = self.plan.schedule
        if not self.acts(step):
            return
        if self.final is not None:
            self.gates.mask(self.final.keep)
            return
        remaining = schedule.remaining(step, self.total_steps)
        scores = self.averages.scores() if self.averages is not None else Scores([], torch.zeros(0), [])
        decision = self.plan.policy.decide(scores, remaining, self.scope)
        freeze = [name for name in decision.freeze if name in self.training]
        if freeze:
            self._freeze(freeze, step, optimizer)
            for other in others:
                other.release(freeze, step)
            folded = {"folded": self.merge_frozen()} if self.plan.policy.merge_frozen else {}
            report("freeze", step, names=freeze, threshold=decision.threshold, remaining=remaining, **folded)
        settled = step > 0 and schedule.settled(step, self.total_steps)
        self._move(decision, optimizer)
        if self._looks(step, decision) and self._prune(decision, settled, optimizer, others):
            self._report_ranks(step, decision, remaining, report)
        # scores stay as they are now, and so does what follows from them; a threshold goes on acting on new values
        if settled and decision.shrink is None:
            self.final = decision

    def finish(self, step: int, optimizer: Any | None, report: Callable[..., None], others: Sequence[Runner]) -> None:
        """At the end of the run: removes what has been pruned, and says so.

        Only after a decision: a gate that starts at zero and has not trained yet is no pruned one.
        """
        if self.compacted:
            return
        moved = self._looked >= 0  # by a threshold, perhaps since the last look
        cut = (moved or self.ranks != self.gates.sizes()) and self.compact(optimizer, others, last=True)
        if cut or moved:
            self._report_ranks(step, Decision(), self.plan.schedule.remaining(step, self.total_steps), report)

    def _freeze(self, names: Sequence[str], step: int, optimizer: Any | None) -> None:
        freeze((self.handles[n] for n in names), optimizer, keep_requires_grad=self.reducers.fixed)
        self.reducers.note()
        self.training.difference_update(names)
        if self.averages is not None:
            self.averages.drop(names)
            self.refresh()
        self.frozen.update(dict.fromkeys(names, step))

    def release(self, names: Sequence[str], step: int) -> None:
        """Lets go of what another plan has frozen. Gates among it keep the ranks that the budget leaves them."""
        if self.averages is None or self.compacted:
            return
        if self.scope.groups:
            leaving = [g for g in self.scope.groups if g.gate in names]
            keep: Mapping[str, Tensor] = {}
            if leaving and self.averages.names:
                remaining = self.plan.schedule.remaining(step, self.total_steps)
                keep = self.plan.policy.decide(self.averages.scores(), remaining, self.scope).keep
            self.gates.mask({group.gate: keep[group.gate] for group in leaving if group.gate in keep})
            names = [name for group in leaving for name, _ in group.parts]
        self.averages.drop(names)
        self.final = None
        self.refresh()

    def gone_early(self) -> set[str]:
        """The factors that freeze, one and all, before the run's last step."""
        schedule, total = self.plan.schedule, self.total_steps
        if not any(schedule.acts(t, total) and schedule.remaining(t, total) == 0 for t in range(total - 1)):
            return set()
        return set(self.scope.freezable)

    def merge_frozen(self) -> int:
        """Has each module in which nothing trains computed as one weight, where the plan says so; how many are."""
        if not self.plan.policy.merge_frozen or self.reducers.fixed:
            return 0
        trains = {self.handles[name].module for name in self.training}
        frozen = {h.module: h for h in self.handles.values() if h.module not in trains}
        return sum(handle.merge_frozen() for handle in frozen.values())

    def _move(self, decision: Decision, optimizer: Any | None) -> None:
        """Does to gates what was decided."""
        self.gates.mask(decision.keep)
        if decision.shrink is not None:
            rates = optimizer if self.plan.policy.times_lr else None
            self.gates.shrink(*decision.shrink, self.training, rates)

    def _looks(self, step: int, decision: Decision) -> bool:
        """Whether to see now what has become of the gates: always after a choice among them, now and then while a
        threshold works on them."""
        if decision.shrink is None:
            return True
        if step - self._looked < _LOOK:
            return False
        self._looked = step
        return True

    def _prune(self, decision: Decision, settled: bool, optimizer: Any | None, others: Sequence[Runner]) -> bool:
        """Removes what is to go now; whether ranks may have changed."""
        gated = bool(decision.keep) or decision.shrink is not None
        if settled and self.plan.policy.settles:
            return self.compact(optimizer, others) or gated
        if gated and self.plan.compact == "on_event" and self._may_cut(optimizer):
            self._cut(decision.keep, optimizer, others)
        return gated

    def _report_ranks(self, step: int, decision: Decision, remaining: float, report: Callable[..., None]) -> None:
        ranks, sizes = self.gates.ranks(), self.gates.sizes()
        if (ranks, sizes) == (self.ranks, self._sizes):
            return
        self.ranks, self._sizes = ranks, sizes
        frozen = sum(ranks[g.module] for g in self.scope.groups if g.gate not in self.training)
        report(
            "prune", step, ranks=ranks, threshold=decision.threshold, remaining=remaining,
            budget=None if decision.budget is None else decision.budget + frozen, removed=self.removed,
        )  # fmt: skip

    def compact(self, optimizer: Any | None, others: Sequence[Runner], *, last: bool = False) -> bool:
        """Removes for good what is pruned now, unless the plan, the optimizer or shards keep it masked;
        whether anything was. Nothing steps after the ``last`` time, so that the optimizer does not matter then."""
        if self.plan.compact == "never" or not self.scope.groups or not (last or self._may_cut(optimizer)):
            return False
        if self.reducers.fixed:
            return False
        self.compacted = True
        return self._cut({}, optimizer, others)

    def _may_cut(self, optimizer: Any | None) -> bool:
        """Whether ranks can be removed from under the optimizer; says once why not."""
        if self.reducers.fixed:
            return False
        place = None if optimizer is None else self.gates.uncuttable(optimizer)
        if place is not None and not self._masks:
            self._masks = True
            warnings.warn(
                f"the optimizer keeps tensors in {place} that cannot be cut with the factors: pruned ranks stay masked "
                "until the end of the run",
                stacklevel=2,
            )
        return place is None

    def _cut(self, keep: Mapping[str, Tensor], optimizer: Any | None, others: Sequence[Runner]) -> bool:
        """Removes rank components, as ``Gates.cut`` does, from averages too; whether there were any to remove."""
        cuts = self.gates.cut({**self._whole(), **keep}, optimizer)
        self._leave([self.handles[name] for name in cuts if not self.handles[name].parameter.numel()], optimizer)
        for runner in (self, *others):
            if cuts and runner.averages is not None:
                runner.averages.take(cuts)
                runner.final = None
        self.removed = self.removed or bool(cuts)
        if cuts:
            self.reducers.note()
        return bool(cuts)

    def _leave(self, empty: Sequence[Handle], optimizer: Any | None) -> None:
        """Lets factors without elements leave training: optimizers divide by the number of elements."""
        for handle in empty:
            handle.settle()
            handle.parameter.grad = None
        if optimizer is not None and empty:
            forget(optimizer, [handle.parameter for handle in empty])

    # ---- stop and resume ---------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "frozen": self.frozen,
            "watched": list(self.scope.scored),
            "names": [] if self.averages is None else self.averages.names,
            "compacted": self.compacted,
            "removed": self.removed,
            "looked": self._looked,
            "ranks": self.ranks,
            "total": self.scope.total,
            "sizes": {group.gate: group.size for group in self.scope.groups},
        }

    def load(self, saved: dict[str, Any], tensors: dict[str, Tensor], started: set[str]) -> None:
        """Goes on from a saved state; ``started`` names the factors that trained when the run began."""
        unknown = [name for name in saved["watched"] if name not in self.handles]
        if unknown:
            raise TapertuneError(f"the saved run scored {unknown[0]!r}, which this model's adapter does not have")
        # the model may have been frozen and pruned when it was loaded, so how it started is known from the saved state
        sizes = saved.get("sizes", {})
        scope = self.plan.policy.scope(self.handles, started)
        groups = tuple(dataclasses.replace(g, size=sizes.get(g.gate, g.size)) for g in scope.groups)
        self.scope = dataclasses.replace(scope, scored=tuple(saved["watched"]), groups=groups, total=saved["total"])
        self.gates = Gates(self.handles, groups)
        self.frozen = {name: int(step) for name, step in saved["frozen"].items()}
        self.compacted, self.ranks = saved["compacted"], dict(saved["ranks"])
        self.removed, self._sizes = saved.get("removed", self.compacted), self.gates.sizes()
        self._looked = saved.get("looked", -_LOOK)
        freeze((self.handles[n] for n in self.frozen), None, keep_requires_grad=self.reducers.fixed)
        self.training.difference_update(self.frozen)
        self.averages = self._make_averages(saved["names"])
        if self.averages is not None:
            self.averages.load_state_dict(tensors)
        self.final = None
        self.refresh()


def check_start(runners: Sequence[Runner], handles: Collection[Handle], training: set[str], *, other: bool) -> None:
    """Checks that a run that begins now can do what its plans ask.

    Args:
        runners: of its plans.
        handles: the adapter's factors.
        training: names of those that train.
        other: whether anything else trains.

    Raises:
        TapertuneError: a budget is out of reach, or everything freezes before the run is over.
    """
    if not any(handle.pruned for handle in handles):  # such an adapter trains on at its ranks
        for runner in runners:
            runner.plan.policy.check(runner.scope)
    gone = {name for runner in runners for name in runner.gone_early()}
    if training and training <= gone and not other:
        raise TapertuneError(
            "the plan freezes the whole adapter before the run is over, and nothing else trains: let its schedule end "
            "later (a smaller schedule.cooldown), or limit policy.factors"
        )
