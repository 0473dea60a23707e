"""Transformers' Trainer with what runs need beyond it: a head with its own settings, checkpoints that are whole or not
there, and the costs of a run, which survive a resume."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from ..adapt import optimizer_bytes
from ..files import read_json_object, usual_permissions, write_json
from ..integrations.continuation import Continuation
from ..integrations.manifest import drop_older, write_manifest
from ..redaction import is_secret
from ..runfile import environment
from ..runfile.blocks import HeadBlock
from ..runfile.older_transformers import TrainingArguments, rotate_checkpoints
from ..runfile.record import FILE
from ..tasks.kinds import Encoded
from . import distributed
from .costs import Costs
from .costs import load_costs as load_costs  # beside what uses them
from .replaced import drop_aside
from .run_folder import MARK, MARK_VERSION
from .sampling import GroupedByLength


class RunTrainer(Trainer):
    """Trainer whose head parameters have a learning rate and weight decay of their own.

    Args:
        head: the block of settings.
        head_names: names of the head's parameters.
        costs: where tokens and rows are counted.
        checkpointing: told before a checkpoint is written.
        measure: evaluates a split with a model; its metrics are those of Trainer's evaluations.
        **others: of Trainer.
    """

    def __init__(
        self,
        *,
        head: HeadBlock,
        head_names: Sequence[str],
        costs: Costs,
        checkpointing: Checkpointing,
        measure: Callable[[RunTrainer, Any], dict[str, float]],
        **others: Any,
    ) -> None:
        self._head, self._head_names = head, frozenset(head_names)
        self._costs, self._checkpointing, self._measure = costs, checkpointing, measure
        super().__init__(**others)
        self._divides = self.args.gradient_accumulation_steps * self.args.world_size > 1

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        if self._divides and self.model_accepts_loss_kwargs:
            self._divides = False
            self.model_accepts_loss_kwargs = self._counts_items(inputs)
        rows, length = inputs["input_ids"].shape
        self._costs.rows += rows
        self._costs.tokens += rows * length
        self._costs.passes += 1
        return super().training_step(model, inputs, *args, **kwargs)

    @torch.no_grad()
    def _counts_items(self, inputs: dict[str, Any]) -> bool:
        """Whether the loss is a sum over items divided by the number that the model is given. Trainer thinks so
        of any model that takes keywords, and then adds up the mean losses of passes and processes."""
        model: Any = self.model
        trains = model.training
        model.eval()
        counts = (torch.tensor(count, device=self.args.device) for count in (1, 2))
        with self.compute_loss_context_manager():
            one, two = (
                self.compute_loss(model, self._prepare_inputs(dict(inputs)), num_items_in_batch=count)
                for count in counts
            )
        model.train(trains)
        return bool(one != two)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or not isinstance(rows, Encoded):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return GroupedByLength([len(row["input_ids"]) for row in rows.rows], size, seed)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        scores = self._measure(self, self.eval_dataset if eval_dataset is None else eval_dataset)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(*(() if model is None else (model,)))  # none before transformers 5.0
        if fresh and (self._head.learning_rate is not None or self._head.weight_decay is not None):
            _split_head(optimizer, self._head, self._head_parameters(model or self.model))
        return optimizer

    def _head_parameters(self, model: Any) -> dict[int, bool]:
        """Identity of each head parameter, and whether weight decay is for it."""
        decayed = set(self.get_decay_parameter_names(model))
        return {id(p): name in decayed for name, p in model.named_parameters() if name in self._head_names}

    def _save(self, *args: Any, **kwargs: Any) -> None:
        """Trainer writes its arguments beside the weights: here without what is secret in them."""
        kept = {f.name: getattr(self.args, f.name) for f in dataclasses.fields(self.args) if is_secret(f.name)}
        try:
            for name in kept:
                setattr(self.args, name, None)
            super()._save(*args, **kwargs)
        finally:
            for name, value in kept.items():
                setattr(self.args, name, value)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Writes a checkpoint. Older ones go when it is marked, not before."""
        self._checkpointing.hold()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit


def _split_head(optimizer: torch.optim.Optimizer, settings: HeadBlock, head: dict[int, bool]) -> None:
    """Moves the head's parameters to groups of their own, behind the adapter's."""
    groups = list(optimizer.param_groups)
    optimizer.param_groups.clear()
    added: list[dict[str, Any]] = []
    for group in groups:
        mine = [p for p in group["params"] if id(p) in head]
        rest = [p for p in group["params"] if id(p) not in head]
        if rest:
            optimizer.param_groups.append({**group, "params": rest})
        if mine:
            changed = {**group, "params": mine}
            if settings.learning_rate is not None:
                changed["lr"] = settings.learning_rate
            if settings.weight_decay is not None:
                changed["weight_decay"] = settings.weight_decay if head[id(mine[0])] else 0.0
            added.append(changed)
    optimizer.param_groups.extend(added)


class Terminated(KeyboardInterrupt):
    """SIGTERM has ended a run: it has written a checkpoint, where it was training."""


class Checkpointing(TrainerCallback):
    """Marks each checkpoint when all of it is written, deletes older ones then, and makes signals wait for that: Ctrl-C
    acts after the checkpoint that is being written, SIGTERM after one that it asks for.

    It has to be the last callback, so that what the others write at ``on_save`` is inside the mark.

    Args:
        costs: of the run.
        checkpoint: that it goes on from.
        continues: keep what a resumed run needs of Trainer; for runs without the callback that does so.
    """

    def __init__(self, costs: Costs, checkpoint: Path | None = None, *, continues: bool = False) -> None:
        self.costs, self._checkpoint = costs, checkpoint
        self._continuation = Continuation() if continues else None
        self._previous: Any = None
        self._held = self._wanted = self._terminated = self._trains = self._recorded = self._ends = self._lost = False

    @contextmanager
    def heeding_sigterm(self) -> Iterator[None]:
        """SIGTERM ends what is done in here by ``Terminated``. Elsewhere than in the main thread it acts as before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, self._terminate)
        try:
            yield
        finally:
            self._trains = False
            left = signal.SIG_DFL if previous is None else previous
            signal.signal(signal.SIGTERM, signal.SIG_IGN if self._lost else left)

    def end(self, *, lost: bool = False) -> None:
        """The run has failed or was interrupted, which is written and told without another interruption.

        Args:
            lost: another process of the run is gone. Then a launcher sends SIGTERM to this one, at any moment from now
                until it has ended: what it has to say is said all the same.
        """
        self._ends, self._lost = True, lost

    def hold(self) -> None:
        """From now to ``on_save``, an interrupt is kept for later. Elsewhere than in the main thread none arrives."""
        if not self._held and threading.current_thread() is threading.main_thread():
            self._wanted = False
            self._previous = signal.signal(signal.SIGINT, self._note)
            self._held = True

    def release(self, *, failed: bool = False) -> None:
        """Interrupts act again; one that was kept acts now, unless training has failed: that is what to tell of."""
        if self._held:
            self._held = False
            signal.signal(signal.SIGINT, self._previous)
            if failed:
                return
            if self._terminated:
                raise Terminated
            if self._wanted:
                raise KeyboardInterrupt

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trains = True
        self._record = Path(str(args.output_dir)) / FILE
        self._recorded = distributed.is_first() and self._record.exists()
        if self._checkpoint is not None and distributed.is_first():
            drop_older(self._checkpoint, args.save_total_limit, state.best_model_checkpoint)
        if self._continuation is not None:
            saved = None if self._checkpoint is None else read_json_object(self._checkpoint / MARK).get("trainer")
            self._continuation.begin(state, saved, self._checkpoint)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trains = False
        if self._continuation is not None:
            self._continuation.end()
        if self._terminated:
            raise Terminated

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._continuation is not None:
            self._continuation.on_step_begin()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._continuation is not None:
            self._continuation.on_epoch_end()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._continuation is not None:
            self._continuation.on_log(state, kwargs.get("logs") or {})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._recorded and not self._record.exists():
            raise FileNotFoundError(f"the run's folder {str(args.output_dir)!r} is gone, or its {FILE} is")
        if distributed.any_of(self._terminated):
            self._terminated = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        self.costs.peak_rss_bytes = max(self.costs.peak_rss_bytes, environment.peak_rss_bytes())
        counts = {name: distributed.total(getattr(self.costs, name)) for name in ("tokens", "rows", "passes")}
        trainer = None if self._continuation is None else self._continuation.note()
        if distributed.is_first():
            usual_permissions(folder)
            mark = {"version": MARK_VERSION, **asdict(self.costs), **counts}
            write_json(folder / MARK, mark if trainer is None else {**mark, "trainer": trainer})
            write_manifest(folder)
            drop_aside(folder.parent)
            self._rotate(args, state)
        self.release()

    def _rotate(self, args: TrainingArguments, state: TrainerState) -> None:
        """Deletes the oldest checkpoints; which they are is known by their steps, as clocks may be set back."""
        limit = getattr(args, "save_total_limit", None)
        rotate_checkpoints(str(args.output_dir), limit, getattr(state, "best_model_checkpoint", None))

    def _note(self, number: int, frame: Any) -> None:
        self._wanted = True

    def _terminate(self, number: int, frame: Any) -> None:
        self._terminated = True
        if not (self._held or self._trains or self._ends):
            raise Terminated


class Clock(TrainerCallback):
    """Adds up the seconds of training steps (loading, evaluating and saving apart) and looks at the optimizer."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self._begun = 0.0

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.costs.train_seconds += time.perf_counter() - self._begun
        if state.global_step == 1:
            self.costs.optimizer_bytes_start = optimizer_bytes(kwargs["optimizer"])

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.costs.optimizer_bytes_end = optimizer_bytes(kwargs["optimizer"])


def total_steps(args: TrainingArguments, rows: int) -> int:
    """Optimizer steps of a run, as Trainer counts them."""
    if args.max_steps > 0:
        return args.max_steps
    size = args.train_batch_size * args.world_size
    batches = rows // size if args.dataloader_drop_last else math.ceil(rows / size)
    return math.ceil(args.num_train_epochs * max(1, math.ceil(batches / args.gradient_accumulation_steps)))
