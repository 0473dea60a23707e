"""The controller: the one object with state. It watches gradients through an optimizer's hooks and acts on plans."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from ..errors import TapertuneError
from .factor_rates import FactorRates, rates_for
from .facts import Facts, LayersKept
from .finite import AUTO, FiniteSteps, Limit
from .following import Following, check_optimizer, no_gradients, not_its_parameters
from .gradient_check import GradientCheck
from .journal import EventSink, Journal, describe
from .missing_controller import leave_work, take_over
from .optimizers import Stillness, keeps_copies, steps_on
from .parameter import Handle
from .plan import Plan, as_json
from .reducers import Reducers
from .resume import STATE_VERSION, Layout, Rearranged, check_names, check_same_run, layout, load_runners, runner_tensors
from .runner import Runner, check_start
from .sharding import gathered
from .tally import Tally


class Controller(Facts):
    """Runs plans over the factors of an adapter. An adapter has one at a time: the last that was attached.

    Before each optimizer step it adds the penalties' gradients and takes the gradients in; after it (or before, where
    a plan says so) it lets the policies decide, when their schedules act. A step that a loss scaler skips moves neither
    scores nor schedules.

    Args:
        handles: the adapter's factors.
        plans: what decides; none only counts and writes events.
        total_steps: optimizer steps of the whole run.
        events: called with ``(type, step, **fields)``; see ``tapertune.events``.
        method, adapter: names for the events.
        other_trainable: parameters that train outside the adapter, such as a classifier.
        distributed: several processes train. Until ``reducers`` knows of a DistributedDataParallel that it can tell,
            frozen factors keep ``requires_grad`` and lose their gradients before each step, and pruned ranks are
            masked.
        factor_rates: learning rates of factors as multiples of the run's, by the factor's name.
        max_skipped_steps: a step whose gradients are not finite is left out; more than so many in a row end training.
            ``auto`` and None as in ``finite``.

    Raises:
        TapertuneError: a plan does not fit the run's length, or names a factor that the adapter does not have.
    """

    def __init__(
        self,
        handles: Sequence[Handle],
        plans: Sequence[Plan],
        total_steps: int,
        *,
        events: EventSink | None = None,
        method: str = "",
        adapter: str = "default",
        other_trainable: int = 0,
        distributed: bool = False,
        factor_rates: Mapping[str, float] | None = None,
        max_skipped_steps: Limit = AUTO,
    ) -> None:
        if total_steps < 1:
            raise TapertuneError(f"total_steps is {total_steps}; it must be the number of optimizer steps of the run")
        self.handles = {handle.name: handle for handle in handles}
        self.plans, self.total_steps, self.journal = tuple(plans), total_steps, Journal(events)
        self.method, self.adapter, self.other_trainable = method, adapter, other_trainable
        self.distributed = distributed
        self.factor_rates = {name: ratio for name, ratio in (factor_rates or {}).items() if ratio != 1}
        self.step = 0
        self.saved_in: str | None = None  # the folder of the last saved state
        self.finite = FiniteSteps(max_skipped_steps)
        self.cache: LayersKept | None = None  # of what no longer changes; it ends with the run
        self.wrappers: list[Any] = []  # around the optimizer, which schedulers ask whether a step was skipped
        self._optimizer: Any | None = None
        self._following: Following | None = None
        self._rates: FactorRates | None = None
        self._rearranged: Rearranged | None = None
        self._saved_layout: Layout = []
        self._retired = self._skipped = False
        self._gradients = GradientCheck()
        self._still: list[Parameter] = []
        self._stillness = Stillness()
        for handle in handles:
            self._settle(handle)
        self._training = {n for n, h in self.handles.items() if h.parameter.requires_grad and not h.frozen}
        self._started = set(self._training)
        self.tally = Tally(other_trainable, self._inside())
        self.reducers = Reducers(self.handles, distributed)
        self.runners = [Runner(p, self.handles, self._training, total_steps, self.reducers) for p in self.plans]

    def _settle(self, handle: Handle) -> None:
        wanted = handle.parameter.requires_grad
        handle.settle()
        if self.distributed and wanted:  # as in actuators.freeze
            handle.parameter.requires_grad_(True)

    # ---- the optimizer's hooks ---------------------------------------------------------------------------------------

    def attach(self, optimizer: Any) -> Controller:
        """Follows an optimizer from its next step on. An earlier controller of the adapter lets go for good.

        Args:
            optimizer: torch's, or an object with ``step`` and ``param_groups`` around one or several.

        Raises:
            TapertuneError: the plan leaves nothing to train, or the optimizer does not step on the adapter.
        """
        if self._retired:
            raise TapertuneError(
                f"a later controller has taken adapter {self.adapter!r} over, and this one does not know what it froze "
                "and pruned: make a new one with tapertune.attach"
            )
        check_optimizer(optimizer)
        self.detach()
        follows = steps_on(optimizer, [h.parameter for h in self.handles.values() if h.parameter.requires_grad])
        if not follows and self.plans:
            raise not_its_parameters(optimizer)
        if self.step == 0:
            check_start(self.runners, self.handles.values(), self._training, other=bool(self.other_trainable))
        take_over(self)
        self._optimizer, self._still = optimizer, []
        self._rates = rates_for(optimizer, self.handles.values(), self.factor_rates, follows=follows)
        self._following = Following(optimizer, self._before_step, self._after_step) if follows else None
        for runner in self.runners:
            runner.refresh()
        self._keep_still(self.frozen)
        self._rearrange()
        self._tell_reducers()
        if self.step == 0:
            self.journal.begin(self._describe())
        return self

    def _tell_reducers(self) -> None:
        """A wrapper may have been made before the adapter was frozen, pruned or trained again."""
        if any(handle.frozen or handle.pruned for handle in self.handles.values()):
            self.reducers.note()
            self.reducers.rebuild(self.step)

    def count_step(self) -> None:
        """Counts a step of an optimizer of copies, which is attached to but not followed; no other."""
        if self._optimizer is not None and self._following is None:
            self.journal.flush()
            self.tally.count_step()
            self.step += 1

    def detach(self) -> None:
        """Lets go of the optimizer. What is frozen stays frozen."""
        for hold in (self._following, self._rearranged):
            if hold is not None:
                hold.stop()
        if self._rates is not None:
            self._rates.stop()
        self._following = self._rearranged = self._optimizer = self._rates = None
        leave_work(self)

    def retire(self) -> None:
        """Lets go of the optimizer for good: a later controller has the adapter."""
        self.detach()
        if self.cache is not None:
            self.cache.close()
        self._retired = True
        self.journal.close()

    def parameters(self) -> list[Parameter]:
        """The parameters that the adapter has to itself."""
        try:
            return [handle.parameter for handle in self.handles.values() if not handle.shared]
        except (KeyError, AttributeError):  # the adapter has been deleted
            return []

    @property
    def inside(self) -> bool:
        """Whether the optimizer is in a step."""
        return self._following is not None and self._following.inside

    def _before_step(self, optimizer: Any) -> None:
        if self._rates is not None:
            self._rates.join()  # a step that failed has left them apart
        self.journal.flush()
        # a fused optimizer unscales by itself, and by itself leaves out a step whose gradients are not finite
        scale, found = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
        if self.distributed:
            self._drop_frozen_gradients()
        self._skipped = found is not None and bool(found)
        if self._skipped:
            return
        self._look_for_gradients()
        with self._at_hand("before"):
            for runner in self.runners:
                runner.penalise(1.0 if scale is None else scale)
            self._skipped = self._is_not_finite(optimizer)
            if self._skipped:
                return
            self._observe("before", scale)
        self._act(lambda plan: not plan.final_update)
        self.tally.count_step()
        if self._rates is not None:
            self._rates.split()

    def _is_not_finite(self, optimizer: Any) -> bool:
        where = self.finite.leaves_out(optimizer, self._names, self.step, self.saved_in)
        for wrapper in self.wrappers:
            wrapper._is_overflow = where is not None
        if where is not None:
            self.journal.write("skip", self.step, first=where, skipped=self.finite.skipped)
        return where is not None

    def check_finite(self) -> None:
        """Raises Diverged if a step was made with gradients that are not finite, as can be on an accelerator."""
        self.finite.check(self.saved_in)

    def _look_for_gradients(self) -> None:
        if not self._gradients.found and self.runners:
            due = any(runner.acts(self.step) for runner in self.runners)
            self._gradients.look((h.parameter for n, h in self.handles.items() if n in self._training), due=due)

    def _drop_frozen_gradients(self) -> None:
        if len(self._still) != len(self.handles) - len(self._training):
            self._still = [handle.parameter for name, handle in self.handles.items() if name not in self._training]
        for parameter in self._still:
            parameter.grad = None

    def _after_step(self, optimizer: Any) -> None:
        if self._rates is not None:
            self._rates.join()
        if self._skipped:
            return
        self._stillness.restore()
        with self._at_hand("after"):
            self._observe("after", getattr(optimizer, "grad_scale", None))
        self._act(lambda plan: plan.final_update)
        self.step += 1

    def _at_hand(self, when: str) -> AbstractContextManager[None]:
        """Whole, where they are shards, all factors and gradients that are read before or after the optimizer's step:
        gathered in one message."""
        return gathered(tensor for runner in self.runners for tensor in runner.reads(self.step, when))

    def _observe(self, when: str, scale: Tensor | None) -> None:
        for runner in self.runners:
            if runner.plan.observe == when:
                runner.observe(self.step, 1.0 if scale is None else 1.0 / scale)

    def _act(self, due: Callable[[Plan], bool]) -> None:
        for runner in self.runners:
            if due(runner.plan) and runner.acts(self.step):
                if not self._gradients.found and runner.wants_gradients(self.step):
                    raise self._no_gradients()
                with gathered(runner.gate_shards()):
                    runner.act(self.step, self._optimizer, self._report, [r for r in self.runners if r is not runner])
        self.reducers.rebuild(self.step)

    def _no_gradients(self) -> TapertuneError:
        return no_gradients(f"by step {self.step} no factor of adapter {self.adapter!r}", self._optimizer)

    def check_gradients(self) -> None:
        """Raises TapertuneError where a plan that needs gradients has none, just before an optimizer should step."""
        self._look_for_gradients()
        needed = any(r.averages is not None or r.plan.penalties for r in self.runners)
        if needed and not (self._gradients.found or self._gradients.unread):
            raise self._no_gradients()

    def _report(self, type: str, step: int, **fields: Any) -> None:
        self.tally.set_inside(self._inside())
        self._keep_still(self.frozen)
        self.journal.write(type, step, **fields, trainable=self.trainable)

    def _keep_still(self, names: Iterable[str]) -> None:
        """Keeps frozen factors in place under an optimizer that would move them without a gradient."""
        names = list(names)
        if names and self._optimizer is not None and keeps_copies(self._optimizer):
            self._stillness.take(self.handles[name].parameter for name in names)

    def _inside(self) -> int:
        """Parameters of the adapter that train."""
        return sum(self.handles[name].parameter.numel() for name in self._training)

    def finish(self) -> None:
        """Removes what has been pruned, takes frozen updates out of the base weights' way, writes the ``end`` event and
        lets go of the optimizer. Nothing, where a later controller has the adapter."""
        if self._retired:
            return
        self.check_finite()
        last = max(self.step - 1, 0)
        for runner in self.runners:
            runner.finish(last, self._optimizer, self._report, [r for r in self.runners if r is not runner])
        if self.cache is not None:
            self.cache.close()
        for handle in self.handles.values():
            handle.unmerge_frozen()
        self.reducers.rebuild(self.step, alone=True)
        self.journal.write("end", self.step, trainable=self.trainable, average_trainable=self.average_trainable)
        self.detach()

    def _describe(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "adapter": self.adapter,
            "total_steps": self.total_steps,
            "plan": as_json(self.plans),
            "factors": describe(self.handles, self._training),
            "other_trainable": self.other_trainable,
            "trainable": self.trainable,
        }

    # ---- stop and resume ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: ``tensors`` (by name) and ``json`` (plain values).

        Raises:
            Diverged: as ``check_finite``.
        """
        self.check_finite()
        return {
            "tensors": runner_tensors(self.runners),
            "json": {
                "version": STATE_VERSION,
                "method": self.method,
                "plan": as_json(self.plans),
                "total_steps": self.total_steps,
                "step": self.step,
                "runners": [runner.state() for runner in self.runners],
                "started": [name for name in self.handles if name in self._started],
                "has_gradients": self._gradients.found,
                "optimizer": layout(self._optimizer, self._names()),
                "trainable_start": self.tally.start,
                "trainable_sum": self.tally.sum,
                "finite": self.finite.state(),
                "events": self.journal.count,
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state, the model's weights being loaded already; freezes what was frozen then, and
        trains again what has frozen since. An optimizer that is made without frozen factors loads its state after this.

        Raises:
            TapertuneError: the state is of a newer schema, or of another plan, length or set of factors.
        """
        saved = state["json"]
        check_same_run(saved, self.method, self.plans, self.total_steps)
        check_names(saved, self.handles)
        self.journal.resume(saved["step"], saved["events"])
        self.step = saved["step"]
        self.tally.start, self.tally.sum = saved["trainable_start"], saved["trainable_sum"]
        self._gradients.found = saved.get("has_gradients", True)
        self.finite.load(saved.get("finite", [0, 0]))
        self._started = set(saved.get("started", self._started))
        self._train_again(self._started.difference(*(values["frozen"] for values in saved["runners"])))
        load_runners(self.runners, state, self._started)
        for runner in self.runners:
            runner.merge_frozen()
        self._still = []
        self._keep_still(self.frozen)
        self._tell_reducers()
        self._saved_layout = saved.get("optimizer") or []
        self._rearrange()
        self.tally.set_inside(self._inside())

    def _train_again(self, names: Collection[str]) -> None:
        """Lets these factors train, and no others."""
        for name, handle in self.handles.items():
            handle.unmerge_frozen()
            if name in names and handle.frozen:
                handle.thaw()
            self._settle(handle)
        self._training.clear()
        self._training.update(names)

    def _names(self) -> dict[int, str]:
        return {id(handle.parameter): name for name, handle in self.handles.items()}

    def _rearrange(self) -> None:
        if self._rearranged is not None:
            self._rearranged.stop()
        self._rearranged = None
        if self._saved_layout and self._optimizer is not None:
            self._rearranged = Rearranged(self._optimizer, self._saved_layout, self._names())
