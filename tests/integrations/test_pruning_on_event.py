"""Ranks that leave at each decision (``compact="on_event"``): what they save, when, and checkpoints in between."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from adalora_defects.side import TOTAL, adamw, make, trainer
from peft import PeftModel, get_peft_model
from tiny import batch, tiny_bert
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

import tapertune
from tapertune.adapt import Controller, optimizer_bytes
from tapertune.events import EventLog, read_events
from tapertune.host import ChainLayer, adapter_parameters
from tapertune.integrations.loop import build_controller
from tapertune.report import load_run

METHODS: dict[str, dict[str, Any]] = {
    "adalora": {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 4, "deltaT": 3, "task_type": "SEQ_CLS"},
    "lora2": {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 4, "deltaT": 3, "k": 3, "task_type": "SEQ_CLS"},
}


def start(method: str, compact: str = "on_event", **plan: Any) -> tuple[PeftModel, torch.optim.Optimizer]:
    base = tiny_bert()
    torch.manual_seed(1)
    config = tapertune.make_config(method, **METHODS[method], plan={"compact": compact, **plan})
    model = get_peft_model(base, config)  # type: ignore[arg-type]
    return model, adamw(model)


def step(model: Any, optimizer: torch.optim.Optimizer, t: int) -> None:
    optimizer.zero_grad()
    model(**batch(seed=t)).loss.backward()
    optimizer.step()


def layers(model: Any) -> dict[str, ChainLayer]:
    return {m.module_path: m for m in model.modules() if isinstance(m, ChainLayer)}


def ranks(model: Any) -> dict[str, int]:
    return {path: layer.rank("default") for path, layer in layers(model).items()}


def costs(model: Any, optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Size], int, int]:
    """Shapes of what trains, bytes of the optimizer's state, operations of a step."""
    model.zero_grad()
    with FlopCounterMode(display=False) as counter:
        model(**batch(seed=99)).loss.backward()
    model.zero_grad()
    shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    return shapes, optimizer_bytes(optimizer), counter.get_total_flops()


@pytest.mark.parametrize("method", METHODS)
def test_after_each_decision_a_run_costs_what_a_model_of_those_ranks_costs(method: str, tmp_path: Path) -> None:
    model, optimizer = start(method)
    log = EventLog(tmp_path / "events.jsonl")
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL, events=log)
    seen: list[dict[str, int]] = []
    for t in range(TOTAL):
        step(model, optimizer, t)
        if not seen or ranks(model) != seen[-1]:
            seen.append(ranks(model))
            config = tapertune.make_config(method, **METHODS[method])
            config.ranks = dict(seen[-1])
            fresh = get_peft_model(tiny_bert(), config)  # type: ignore[arg-type]
            other = adamw(fresh)
            Controller(adapter_parameters(fresh), [], TOTAL).attach(other)
            step(fresh, other, t)
            assert costs(model, optimizer) == costs(fresh, other)
            assert controller.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
            averages = controller.runners[0].averages
            scored = ("A", "E", "B") if method == "adalora" else ("E", "aa", "B")
            assert averages is not None and averages.mean.numel() == averages.dev.numel()
            if not controller.runners[0].compacted:
                assert averages.mean.numel() == sum(
                    layer.factor("default", name).numel() for layer in layers(model).values() for name in scored
                )
    controller.finish()
    assert len(seen) > 3, "ranks left at several decisions"
    assert all(after[m] <= before[m] for before, after in itertools.pairwise(seen) for m in before)
    assert sum(seen[-1].values()) == 2 * 12
    prunes = [e for e in read_events(tmp_path / "events.jsonl") if e["type"] == "prune"]
    assert [e["ranks"] for e in prunes] == seen[1:] and all(e["removed"] for e in prunes)
    assert [sum(e["ranks"].values()) for e in prunes] == [e["budget"] for e in prunes]
    (tmp_path / "run.json").write_text('{"schema_version": 1, "status": "done"}')
    run = load_run(tmp_path)
    assert run.ranks is not None and run.ranks.removed
    assert run.curve.average + run.head_parameters == pytest.approx(controller.average_trainable)


def test_up_to_the_second_decision_it_is_the_masked_run() -> None:
    """Only there could a masked rank come back; what left at the first would have had no part in any output."""
    outputs = []
    for compact in ("on_event", "end"):
        model, optimizer = start("adalora", compact)
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        tapertune.attach(model, optimizer, total_steps=TOTAL)
        for t in range(4):
            step(model, optimizer, t)
        outputs.append(model(**batch()).logits)
        assert sum(ranks(model).values()) < 48 or compact == "end"
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-6, rtol=1e-5)


def test_what_stays_takes_the_step_before_which_the_others_leave() -> None:
    """With ``final_update`` off the decision comes before the optimizer's step."""
    moved = []
    for compact in ("on_event", "never"):
        model, _ = start("adalora")
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        plan = {"compact": compact, "final_update": False, "penalties": []}
        tapertune.attach(model, optimizer, total_steps=TOTAL, plan=plan)
        for t in range(4):
            step(model, optimizer, t)
        gates = [layer.factor("default", "E").detach() for layer in layers(model).values()]
        moved.append(torch.cat(gates))
    used = moved[1] != 0  # a masked gate is moved by the step after the mask
    kept = torch.isin(moved[1], moved[0])
    assert 0 < len(moved[0]) < len(moved[1]) and int(kept.sum()) == len(moved[0]) and used.all()


def test_under_a_reducer_they_stay_masked() -> None:
    model, optimizer = start("adalora")
    built = build_controller(model, total_steps=TOTAL)
    controller = Controller(list(built.handles.values()), built.plans, TOTAL, distributed=True)
    controller.attach(optimizer)
    for t in range(TOTAL):
        step(model, optimizer, t)
    assert set(ranks(model).values()) == {4}
    assert sum(controller.ranks.values()) == 24


@pytest.mark.parametrize("fused", [False, True])
def test_modules_that_lose_all_ranks(fused: bool) -> None:
    model, _ = start("adalora")
    values = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(values, lr=1e-2, fused=fused)
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL)
    for t in range(TOTAL):
        optimizer.zero_grad()
        model(**batch(seed=t)).loss.backward()
        for path, layer in layers(model).items():
            if "layer.0" in path:  # no gradient, no score
                for name in "AEB":
                    layer.factor("default", name).grad = None
        optimizer.step()
    assert {rank for path, rank in controller.ranks.items() if "layer.0" in path} == {0}
    assert sum(ranks(model).values()) == 24


class _StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise InterruptedError


EVENTS = {"deltaT": 3, "plan": {"compact": "on_event"}}


@pytest.mark.parametrize("save", [3, 5, 7, 14], ids=["before", "after one", "after two", "after all"])
def test_trainer_goes_on_from_a_checkpoint_between_decisions(tmp_path: Path, save: int) -> None:
    whole, resumed = make(**EVENTS), make(**EVENTS)
    trainer(tmp_path / "whole", whole, save_steps=save).train()
    cut = trainer(tmp_path / "cut", make(**EVENTS), save_steps=save)
    cut.add_callback(_StopAfter(save + 1))
    with pytest.raises(InterruptedError):
        cut.train()
    trainer(tmp_path / "cut", resumed, save_steps=save).train(resume_from_checkpoint=True)
    one, two = (dict(model.named_parameters()) for model in (resumed, whole))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert (tmp_path / "cut/events.jsonl").read_bytes() == (tmp_path / "whole/events.jsonl").read_bytes()


@pytest.mark.parametrize("best", [5, 10, 15])
def test_trainer_loads_a_best_model_of_other_ranks(tmp_path: Path, best: int) -> None:
    model = make(**EVENTS)
    run = trainer(
        tmp_path, model, eval_strategy="steps", eval_steps=5, save_steps=5, load_best_model_at_end=True,
        metric_for_best_model="picked", greater_is_better=True,
    )  # fmt: skip
    run.compute_metrics = lambda _: {"picked": float(run.state.global_step == best)}
    run.train()
    logged = next(line["eval_loss"] for line in run.state.log_history if line["step"] == best and "eval_loss" in line)
    assert run.evaluate()["eval_loss"] == pytest.approx(logged, rel=1e-6)
    again = PeftModel.from_pretrained(tiny_bert(), tmp_path / f"checkpoint-{best}")
    assert ranks(again) == ranks(model)
