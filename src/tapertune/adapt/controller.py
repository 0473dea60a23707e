"""The controller: the one object with state. It watches gradients through an optimizer's hooks and acts on plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from ..errors import TapertuneError
from .actuators import Handle
from .plan import Plan
from .runner import Runner
from .unfollowed import followed

EventSink = Callable[..., None]
STATE_VERSION = 1


class Controller:
    """Runs plans over the factors of an adapter.

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
        distributed: keep ``requires_grad`` of frozen factors on and drop their gradients before each step; mask pruned
            ranks rather than remove them.

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
    ) -> None:
        if total_steps < 1:
            raise TapertuneError(f"total_steps is {total_steps}; it must be the number of optimizer steps of the run")
        self.handles = {handle.name: handle for handle in handles}
        self.plans, self.total_steps, self.events = tuple(plans), total_steps, events
        self.method, self.adapter, self.other_trainable = method, adapter, other_trainable
        self.distributed = distributed
        self.step = 0
        self.trainable_sum = 0
        self._optimizer: Optimizer | None = None
        self._removers: list[Any] = []
        self._skipped = False
        self._still: list[Parameter] = []
        self._training = {name for name, handle in self.handles.items() if handle.parameter.requires_grad}
        self._count()
        self.trainable_start = self.trainable
        self.runners = [Runner(p, self.handles, self._training, total_steps, distributed) for p in self.plans]

    # ---- the optimizer's hooks ---------------------------------------------------------------------------------------

    def attach(self, optimizer: Optimizer) -> Controller:
        """Follows an optimizer from its next step on, and writes the ``start`` event of a run that is not resumed.

        Raises:
            TapertuneError: the plan leaves nothing to train, or the optimizer does not step on the adapter.
        """
        self.detach()
        follows = self._is_stepped_by(optimizer)
        if not follows and self.plans:
            raise TapertuneError(
                f"the optimizer ({type(optimizer).__name__}) steps on none of the adapter's parameters, so the plan "
                "could score, freeze and prune nothing. DeepSpeed's stages 1 and 2 step on copies of them: train with "
                "several processes without it (DDP), or a method without a plan"
            )
        if self.step == 0:
            for runner in self.runners:
                runner.plan.policy.check(runner.scene)
            gone = {name for runner in self.runners for name in runner.gone_early()}
            if self._training and self._training <= gone and not self.other_trainable:
                raise TapertuneError(
                    "the plan freezes the whole adapter before the run is over, and nothing else trains: let its "
                    "schedule end later (a smaller schedule.cooldown), or limit policy.factors"
                )
        self._optimizer, self._still = optimizer, []
        for runner in self.runners:
            runner.refresh()
        followed(optimizer)
        if follows:
            self._removers = [
                optimizer.register_step_pre_hook(self._before_step),
                optimizer.register_step_post_hook(self._after_step),
            ]
        if self.step == 0 and self.events is not None:
            self.events("start", 0, **self._describe())
        return self

    def _is_stepped_by(self, optimizer: Optimizer) -> bool:
        given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        training = [h.parameter for h in self.handles.values() if h.parameter.requires_grad]
        return not training or any(id(parameter) in given for parameter in training)

    def count_step(self) -> None:
        """Counts a step of an optimizer of copies, which is attached to but not followed; no other."""
        if self._optimizer is not None and not self._removers:
            self.trainable_sum += self.trainable
            self.step += 1

    def detach(self) -> None:
        """Lets go of the optimizer. What is frozen stays frozen."""
        for remover in self._removers:
            remover.remove()
        self._removers, self._optimizer = [], None

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # a fused optimizer unscales by itself, and by itself leaves out a step whose gradients are not finite
        scale, found = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
        if self.distributed:
            self._drop_frozen_gradients()
        self._skipped = found is not None and bool(found)
        if self._skipped:
            return
        for runner in self.runners:
            runner.penalise(1.0 if scale is None else scale)
        self._observe("before", scale)
        self._act(lambda plan: not plan.final_update)
        self.trainable_sum += self.trainable

    def _drop_frozen_gradients(self) -> None:
        if len(self._still) != sum(len(runner.frozen) for runner in self.runners):
            self._still = [self.handles[name].parameter for name in self.frozen]
        for parameter in self._still:
            parameter.grad = None

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._skipped:
            return
        self._observe("after", getattr(optimizer, "grad_scale", None))
        self._act(lambda plan: plan.final_update)
        self.step += 1

    def _observe(self, when: str, scale: Tensor | None) -> None:
        for runner in self.runners:
            if runner.plan.observe == when:
                runner.observe(self.step, 1.0 if scale is None else 1.0 / scale)

    def _act(self, due: Callable[[Plan], bool]) -> None:
        for runner in self.runners:
            if due(runner.plan):
                runner.act(self.step, self._optimizer, self._report, [r for r in self.runners if r is not runner])

    def _report(self, type: str, step: int, **fields: Any) -> None:
        self._count()
        if self.events is not None:
            self.events(type, step, **fields, trainable=self.trainable)

    # ---- what it knows -----------------------------------------------------------------------------------------------

    def _count(self) -> None:
        inside = sum(self.handles[name].parameter.numel() for name in self._training)
        self._trainable = self.other_trainable + inside

    @property
    def trainable(self) -> int:
        """Parameters that train now, inside the adapter and outside."""
        return self._trainable

    @property
    def average_trainable(self) -> float:
        """Mean over the steps so far of the parameters that trained in each."""
        return self.trainable_sum / self.step if self.step else float(self.trainable)

    @property
    def frozen(self) -> dict[str, int]:
        """The factors frozen so far, with the index of the step at which each froze."""
        return {name: step for runner in self.runners for name, step in runner.frozen.items()}

    @property
    def freezable(self) -> tuple[str, ...]:
        """The factors that a plan may freeze, or has frozen."""
        frozen = self.frozen
        names = dict.fromkeys(name for runner in self.runners for name in runner.scene.freezable)
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
            "trainable_start": self.trainable_start,
            "trainable_average": self.average_trainable,
            "trainable_end": self.trainable,
            "other_trainable": self.other_trainable,
            "frozen": len(self.frozen),
            "freezable": len(self.freezable),
            "last_freeze_step": max(self.frozen.values(), default=None),
            "ranks": self.ranks,
            "steps": self.step,
        }

    def finish(self) -> None:
        """Removes what has been pruned, unfolds, writes the ``end`` event and lets go of the optimizer."""
        last = max(self.step - 1, 0)
        for runner in self.runners:
            runner.finish(last, self._optimizer, self._report, [r for r in self.runners if r is not runner])
        for handle in self.handles.values():
            handle.unfold()
        if self.events is not None:
            self.events("end", self.step, trainable=self.trainable, average_trainable=self.average_trainable)
        self.detach()

    def _describe(self) -> dict[str, Any]:
        factors = [
            {
                "name": name,
                "module": handle.module,
                "factor": handle.factor,
                "layer": handle.layer,
                "row": handle.row,
                "kind": handle.kind,
                "shape": list(handle.parameter.shape),
                "trainable": name in self._training,
            }
            for name, handle in self.handles.items()
        ]
        return {
            "method": self.method,
            "adapter": self.adapter,
            "total_steps": self.total_steps,
            "plan": self._plan_json(),
            "factors": factors,
            "other_trainable": self.other_trainable,
            "trainable": self.trainable,
        }

    def _plan_json(self) -> Any:
        plans = [plan.to_dict() for plan in self.plans]
        return (plans or [None])[0] if len(plans) < 2 else plans

    # ---- stop and resume ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: ``tensors`` (by name) and ``json`` (plain values)."""
        tensors = {
            f"{i}.{key}": value
            for i, runner in enumerate(self.runners)
            if runner.averages is not None and runner.averages.names
            for key, value in runner.averages.state_dict().items()
        }
        return {
            "tensors": tensors,
            "json": {
                "version": STATE_VERSION,
                "method": self.method,
                "plan": self._plan_json(),
                "total_steps": self.total_steps,
                "step": self.step,
                "runners": [runner.state() for runner in self.runners],
                "trainable_start": self.trainable_start,
                "trainable_sum": self.trainable_sum,
                "events": getattr(self.events, "count", None),
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state, the model's weights being loaded already; freezes what was frozen then.

        Raises:
            TapertuneError: the state is of a newer schema, or of another plan, length or set of factors.
        """
        saved = state["json"]
        if saved["version"] > STATE_VERSION:
            raise TapertuneError(
                f"controller state of schema {saved['version']}; this tapertune reads up to {STATE_VERSION}"
            )
        mine = {"method": self.method, "plan": self._plan_json(), "total_steps": self.total_steps}
        for key, value in mine.items():
            if saved[key] != value:
                raise TapertuneError(
                    f"the saved run had {key} {saved[key]!r}, this one has {value!r}; they must be equal"
                )
        self.step, self.trainable_sum = saved["step"], saved["trainable_sum"]
        self.trainable_start = saved["trainable_start"]
        for i, (runner, values) in enumerate(zip(self.runners, saved["runners"], strict=True)):
            prefix = f"{i}."
            tensors = {k.removeprefix(prefix): v for k, v in state["tensors"].items() if k.startswith(prefix)}
            runner.load(values, tensors)
        for runner in self.runners:
            runner.fold()
        self._count()
