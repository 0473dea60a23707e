"""The controller under transformers' Trainer, and so under TRL."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..adapt import Controller
from ..adapt.finite import AUTO, Limit
from ..adapt.plan import Spec
from ..errors import TapertuneError
from ..events import EventLog
from ..files import drop_temporaries
from ..host import Coverage, coverage, find_config, suggest_learning_rate
from ..layer_cache.cache import LayerCache, check_model
from ..layer_cache.settings import CacheSettings, cache_settings
from ..lock import hold, let_go
from ..methods.rates import SuggestedRate
from .continuation import Continuation, trainer_of
from .loop import attach_to, build_controller
from .manifest import drop_older, find_fault, write_manifest
from .same_run import check_facts, facts
from .state import STATE_FILE, read_state, save_state
from .tracked import Tracked
from .watch import LearningWatch
from .wrappers import find_wrappers

_log = logging.getLogger("tapertune")
_LOGGED = {"loss": "loss", "learning_rate": "lr", "grad_norm": "grad_norm"}


class TapertuneCallback(TrainerCallback):
    """Adapts while Trainer trains: ``Trainer(..., callbacks=[TapertuneCallback()])``.

    The number of steps comes from the Trainer. Each checkpoint gets the controller's state beside Trainer's own, in
    whichever folder Trainer writes it (a search's ``run-3/checkpoint-40``, say), and
    ``trainer.train(resume_from_checkpoint=...)`` goes on exactly where it stopped. While it trains, no other process
    can train in ``args.output_dir``.

    Args:
        plan: changes to the config's plan, such as ``{"schedule": {"warmup": 100}}``.
        events: name of the event file in ``args.output_dir``, or None for no file.
        resume_from: the checkpoint folder, where it is neither ``checkpoint-<step>`` in ``args.output_dir`` nor in one
            of the folders there.
        adapter_name: the adapter.
        say: told in a line that the run learns nothing; without it, the line is logged as a warning of ``tapertune``.
        max_skipped_steps: a step whose gradients hold NaN or infinity is left out, of the learning rate's schedule
            too; more than so many in a row end training. ``auto``: 5 on a processor; on an accelerator, which is not
            waited for at each step, training ends at the next look (log, save, end). None: nothing is looked at.
        cache: keeps what enters the lowest layer that trains, so that later epochs begin there: true, or settings such
            as ``{"memory": "2GiB", "dropout": "off"}``; see ``tapertune.cache_layers``.

    Attributes:
        controller, coverage: from the start of training on; what of the model is under the adapter.
    """

    def __init__(
        self,
        plan: Spec | None = None,
        events: str | None = "events.jsonl",
        resume_from: str | os.PathLike[str] | None = None,
        adapter_name: str = "default",
        say: Callable[[str], None] | None = None,
        max_skipped_steps: Limit = AUTO,
        cache: CacheSettings | Mapping[str, Any] | bool | None = None,
    ) -> None:
        self.max_skipped_steps, self.cache = max_skipped_steps, cache_settings(cache)
        self.plan, self.events, self.adapter_name = plan, events, adapter_name
        self.resume_from = None if resume_from is None else Path(resume_from)
        self.controller: Controller | None = None
        self.coverage: Coverage | None = None
        self._continuation = Continuation()
        self._tracked = Tracked()
        self._facts: dict[str, Any] = {}
        self._warned = False
        self._last_save = -1
        self._watch, self._say = LearningWatch("", say=say), say

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.cache is not None:  # before Trainer compiles the model
            check_cache(self.cache, kwargs["model"], args)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._keep_others_out(args, state)
        try:
            self._begin(args, state, control, **kwargs)
        except BaseException:
            let_go(Path(args.output_dir or "."))
            raise

    def _begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        kwargs["model"] = module_of(kwargs["model"])
        self._warned, self._last_save = False, -1
        if self.cache is not None:
            check_cache(self.cache, kwargs["model"], args)
        self._say_coverage(kwargs["model"], state)
        folder = self._checkpoint(args, state) if state.global_step else None
        saved = None if folder is None else read_state(folder)
        keep = 0 if saved is None else saved["json"]["events"] or 0
        sink = (
            EventLog(Path(args.output_dir or ".") / self.events, keep)
            if self.events and state.is_world_process_zero
            else None
        )
        self.controller = build_controller(
            kwargs["model"],
            total_steps=state.max_steps,
            adapter_name=self.adapter_name,
            plan=self.plan,
            events=sink,
            max_skipped_steps=self.max_skipped_steps,
        )
        trainer = trainer_of(state)
        find_wrappers(self.controller, (None if trainer is None else trainer.model_wrapped) or kwargs["model"])
        inside = {id(handle.parameter) for handle in self.controller.handles.values()}
        self._facts = facts(args, kwargs.get("train_dataloader"), kwargs["model"], inside)
        if saved is not None:
            if note := check_facts(saved["json"].get("run", {}), self._facts):
                _log.warning(note)
            self.controller.load_state_dict(saved)
            self.controller.saved_in = str(folder)
        if folder is not None and args.should_save and folder.parent == Path(args.output_dir or "."):
            drop_older(folder, args.save_total_limit, state.best_model_checkpoint)
        attach_to(self.controller, kwargs["optimizer"])
        if self.cache is not None:
            self.controller.cache = LayerCache(kwargs["model"], self.cache, self._say)
        self._watch.name, self._watch.rule = self.controller.method, self._rule(args, state, kwargs["model"])
        self._watch.on_train_begin(args, state, control, **kwargs)
        _WatchedState.watch(state, self)
        self._continuation.begin(state, None if saved is None else saved["json"].get("trainer"), folder)
        self._tracked.begin(self._continuation.trainer, self.controller)

    def _say_coverage(self, model: Any, state: TrainerState) -> None:
        """Logs what of the model is under the adapter; as a warning where something is left out that nobody chose to.

        Raises:
            TapertuneError: nothing that is computed is.
        """
        self.coverage = coverage(model, self.adapter_name)
        self.coverage.check()
        if state.is_world_process_zero:
            _log.log(logging.WARNING if self.coverage.unexpected else logging.INFO, "%s", self.coverage)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._continuation.on_step_begin()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._continuation.on_epoch_end()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # an optimizer that has stepped inside backward leaves no gradient, and Accelerate does not step all such kinds
        if self.controller is None or self.controller.finite.skipped:
            return
        if self.controller.step == 0 and state.global_step >= 2:
            self.controller.check_gradients()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.controller is None:
            return
        self.controller.count_step()
        self._watch.on_step_end(args, state, control, **kwargs)
        if not self._warned and self.controller.step == self.controller.finite.skipped == 0 and state.global_step >= 3:
            self._warned = True
            warnings.warn(
                f"after {state.global_step} steps of Trainer the adaptation plan has not seen one: the optimizer that "
                "steps is not the one that the callback was given, so nothing will freeze",
                stacklevel=2,
            )

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._watch.on_log(args, state, control, **kwargs)
        logs = kwargs.get("logs") or {}
        if self.controller is not None:
            self.controller.check_finite()  # Trainer has just waited for the loss
        self._continuation.on_log(state, logs)
        if "loss" in logs:
            self._emit("loss", state.global_step, **{ours: float(logs[k]) for k, ours in _LOGGED.items() if k in logs})

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._watch.on_evaluate(args, state, control, **kwargs)
        # times and rates differ from run to run and are no part of what happened
        metrics = {
            key.removeprefix("eval_"): float(value)
            for key, value in (kwargs.get("metrics") or {}).items()
            if isinstance(value, int | float) and not key.endswith(("runtime", "_per_second")) and key != "epoch"
        }
        self._emit("eval", state.global_step, metrics=metrics)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.controller is None or self._last_save == state.global_step:
            return
        if not args.should_save:
            self._continuation.note()
            return
        folder = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
        if folder.is_dir():
            self.save_beside(folder, state.global_step)
        else:
            self._continuation.note()
            warnings.warn(
                f"the checkpoint of step {state.global_step} has no {STATE_FILE}: Trainer has not written its state, "
                f"and there is no {folder}. Training cannot go on from this checkpoint",
                stacklevel=2,
            )

    def save_beside(self, folder: Path, step: int) -> None:
        """Writes the controller's state into a checkpoint of Trainer's, and what all of the checkpoint is."""
        if self.controller is not None:
            # asks all processes, so that what each of them writes is there
            save_state(self.controller, folder, trainer=self._continuation.note(), run=self._facts)
            write_manifest(folder)
            self._last_save = step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _WatchedState.leave(state)
        self._watch.stop()
        self._tracked.end(self._continuation.trainer)
        self._continuation.end()
        if self.controller is not None:
            self.controller.finish()
        let_go(Path(args.output_dir or "."))

    def _keep_others_out(self, args: TrainingArguments, state: TrainerState) -> None:
        """One run at a time in a folder, from here to ``on_train_end``; what a killed process was writing there goes.
        The trials of a search, which may run beside each other, have folders of their own inside."""
        if state.is_world_process_zero and not state.is_hyper_param_search:
            folder = Path(args.output_dir or ".")
            hold(folder)
            if state.global_step and folder.is_dir():
                drop_temporaries(folder)

    def _rule(self, args: TrainingArguments, state: TrainerState, model: Any) -> SuggestedRate | None:
        """What the method's rule says of the run; nothing of a model whose width is not known."""
        batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        try:
            return suggest_learning_rate(model, find_config(model, self.adapter_name), state.max_steps, batch)
        except TapertuneError:
            return None

    def _emit(self, type: str, step: int, **fields: Any) -> None:
        if self.controller is not None:
            self.controller.journal.write(type, step, **fields)

    def _checkpoint(self, args: TrainingArguments, state: TrainerState) -> Path:
        """The folder that training resumes from; Trainer does not tell."""
        name, output = f"checkpoint-{state.global_step}", Path(args.output_dir or ".")
        places = (output / name, *sorted(output.glob(f"*/{name}"))) if self.resume_from is None else (self.resume_from,)
        folders = [folder for folder in places if folder.is_dir()]
        if self.resume_from is None:
            folders = [folder for folder in folders if _is_from(folder, state)]
        if not folders:
            what = "is of another run" if places[0].is_dir() else "does not exist"
            raise TapertuneError(
                f"training resumes at step {state.global_step}, but {places[0]} {what}; "
                "pass TapertuneCallback(resume_from=...) with the checkpoint's folder"
            )
        fault = find_fault(folders[0])
        if fault is not None and not fault.cut_short:  # of an earlier version, checkpoints have no manifest
            raise TapertuneError(
                f"cannot go on from {str(folders[0])!r}: {fault.reason}; tapertune.integrations.whole_checkpoint(...) "
                "names the newest checkpoint that is whole"
            )
        return folders[0]


def check_cache(settings: CacheSettings, model: Any, args: TrainingArguments) -> None:
    """
    Raises:
        TapertuneError: what a model's frozen layers make of a row cannot be kept under these arguments.
    """
    if args.torch_compile:
        raise TapertuneError("cache: training.torch_compile compiles the model whole, so that no layer can be left out")
    check_model(model, settings)


def module_of(model: Any) -> Any:
    """What of a Trainer's model is a module: a SetFit model is none itself, and has one as its ``model_body``."""
    return model if isinstance(model, nn.Module) else getattr(model, "model_body", model)


class _WatchedState(TrainerState):
    """Trainer's state while it trains. Trainer tells callbacks that it has saved a checkpoint, not where; its state,
    which it saves there, learns the folder. Copies and pickles save themselves alone."""

    @classmethod
    def watch(cls, state: TrainerState, callback: TapertuneCallback) -> None:
        if type(state) is TrainerState:
            state.__class__ = cls
        vars(state)["_callback"] = callback

    @staticmethod
    def leave(state: TrainerState) -> None:
        if type(state) is _WatchedState:
            state.__class__ = TrainerState  # pyright: ignore[reportAttributeAccessIssue]
        vars(state).pop("_callback", None)

    def save_to_json(self, json_path: str) -> None:
        super().save_to_json(json_path)
        folder, callback = Path(json_path).parent, vars(self).get("_callback")
        if callback is not None and folder.name == f"checkpoint-{self.global_step}":
            callback.save_beside(folder, self.global_step)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_callback"}


def _is_from(folder: Path, state: TrainerState) -> bool:
    """Whether a state was read from a checkpoint folder: another run's may have the same number."""
    try:
        saved = TrainerState.load_from_json(str(folder / "trainer_state.json"))
    except (OSError, ValueError, TypeError):
        return False
    history, other = (json.dumps(each.log_history) for each in (state, saved))  # as text, in which NaN equals itself
    return saved.global_step == state.global_step and history == other
