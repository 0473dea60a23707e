"""An adapter has one controller at a time, the last; and a finished adapter can be trained further."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny import Rows, batch, mlp, tiny_bert
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import tapertune
from tapertune.events import EventLog, read_events
from tapertune.host import ChainLayer
from tapertune.methods import METHODS

TOTAL, SHORT = 40, 24
# with default settings, but for thresholds that matter in forty steps
VALUES: dict[str, dict[str, Any]] = {"sora": {"threshold": 5e-3, "sparse_lambda": 1e-3}}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def adapted(method: str) -> PeftModel:
    base = tiny_bert()
    torch.manual_seed(1)
    values = VALUES.get(method, {})
    return get_peft_model(base, tapertune.make_config(method, modules_to_save=["classifier"], **values))


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, which: range) -> None:
    for t in which:
        optimizer.zero_grad()
        model(**batch(seed=t)).loss.backward()
        optimizer.step()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: nn.Module, other: nn.Module) -> None:
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def ranks(model: nn.Module) -> list[int]:
    return [m.rank("default") for m in model.modules() if isinstance(m, ChainLayer)]


def accelerated(optimizer: torch.optim.Optimizer) -> Any:
    from accelerate import Accelerator
    from accelerate.state import GradientState

    GradientState._reset_state()
    return Accelerator(cpu=True).prepare(optimizer)


ATTACHED: dict[str, Callable[[Any, Any], Any]] = {
    "twice": lambda model, optimizer: [optimizer, optimizer],
    "wrapped, then bare": lambda model, optimizer: [accelerated(optimizer), optimizer],
    "bare, then wrapped": lambda model, optimizer: [optimizer, accelerated(optimizer)],
    "to another optimizer first": lambda model, optimizer: [adamw(model), optimizer],
}


@pytest.mark.parametrize("how", ATTACHED)
def test_attached_again_before_any_step(method: str, how: str, tmp_path: Path) -> None:
    once = adapted(method)
    optimizer = adamw(once)
    first = tapertune.attach(once, optimizer, total_steps=SHORT, events=EventLog(tmp_path / "once.jsonl"))
    steps(once, optimizer, range(SHORT))
    first.finish()

    model = adapted(method)
    optimizer = adamw(model)
    log = EventLog(tmp_path / "again.jsonl")  # the same for all
    made = [tapertune.attach(model, o, total_steps=SHORT, events=log) for o in ATTACHED[how](model, optimizer)]
    steps(model, optimizer, range(SHORT))
    for controller in made:
        controller.finish()
    assert [c.step for c in made] == [0] * (len(made) - 1) + [SHORT]
    same(once, model)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "once.jsonl").read_bytes()


def test_attached_again_in_the_middle(method: str) -> None:
    """As a notebook's cell that is run again: the new run knows what has frozen and what is gone."""
    model = adapted(method)
    optimizer = adamw(model)
    first = tapertune.attach(model, optimizer, total_steps=TOTAL)
    steps(model, optimizer, range(34))
    frozen, before = dict(first.frozen), ranks(model)
    second = tapertune.attach(model, optimizer, total_steps=TOTAL)
    assert second.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    steps(model, optimizer, range(TOTAL))
    assert (first.step, second.step) == (34, TOTAL)
    assert not set(frozen) & set(second.frozen)
    assert all(new <= old for new, old in zip(ranks(model), before, strict=True))
    at_end = ranks(model)
    first.finish()  # an object that somebody still has: it changes nothing any more
    assert ranks(model) == at_end
    with pytest.raises(tapertune.TapertuneError, match="a later controller has taken adapter 'default' over"):
        first.attach(optimizer)
    second.finish()
    if method in ("adalora", "lora2"):
        assert ranks(model) == before  # the budget was reached in the first run


def test_another_plan_takes_the_first_ones_place() -> None:
    model = adapted("aflora")
    optimizer = adamw(model)
    first = tapertune.attach(model, optimizer, total_steps=TOTAL, plan={"schedule": {"warmup": 0, "every": 1}})
    second = tapertune.attach(model, optimizer, total_steps=TOTAL, plan={"schedule": {"kind": "constant"}})
    steps(model, optimizer, range(TOTAL))
    assert (first.step, second.step, first.frozen, second.frozen) == (0, TOTAL, {}, {})


def test_a_refused_attach_leaves_the_first_at_work() -> None:
    model = adapted("aflora")
    optimizer = adamw(model)
    first = tapertune.attach(model, optimizer, total_steps=TOTAL)
    with pytest.raises(tapertune.TapertuneError, match="warmup"):
        tapertune.attach(model, optimizer, total_steps=TOTAL, plan={"schedule": {"warmup": 60}})
    with pytest.raises(tapertune.TapertuneError, match="steps on none"):
        tapertune.attach(model, torch.optim.SGD([nn.Parameter(torch.ones(1))]), total_steps=TOTAL)
    steps(model, optimizer, range(3))
    assert first.step == 3


def test_two_adapters_on_one_optimizer_have_a_controller_each() -> None:
    torch.manual_seed(0)
    model: Any = get_peft_model(mlp(), tapertune.make_config("sora", target_modules=["0", "2"], threshold=1e-2))
    model.add_adapter("other", tapertune.make_config("sora", target_modules=["0"], threshold=1e-2))
    optimizer = torch.optim.SGD([p for n, p in model.named_parameters() if "sora" in n], lr=0.0)
    controllers = []
    for name in ("default", "other"):
        model.set_adapter(name)
        controllers += [tapertune.attach(model, optimizer, total_steps=5, adapter_name=name) for _ in range(2)]
    gates = [p for n, p in model.named_parameters() if "sora_g" in n]
    before = [gate.detach().clone() for gate in gates]
    model(torch.randn(2, 6)).sum().backward()
    optimizer.step()
    assert [c.step for c in controllers] == [0, 1, 0, 1]
    for gate, old in zip(gates, before, strict=True):
        assert float((old - gate.detach()).abs().max()) == pytest.approx(1e-2, rel=1e-4)


def test_a_deleted_adapter_does_not_disturb_a_new_one() -> None:
    model: Any = get_peft_model(mlp(), tapertune.make_config("aflora", target_modules=["0", "2"]))
    tapertune.attach(model, torch.optim.SGD(model.parameters()), total_steps=5)
    model.add_adapter("new", tapertune.make_config("aflora", target_modules=["0"]))
    model.set_adapter("new")
    model.delete_adapter("default")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad])
    controller = tapertune.attach(model, optimizer, total_steps=5, adapter_name="new")
    model(torch.randn(2, 6)).sum().backward()
    optimizer.step()
    assert controller.step == 1


# ---- Trainer ---------------------------------------------------------------------------------------------------------


class Fails(TrainerCallback):
    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.step = -1
            raise self.error


def trainer(model: nn.Module, folder: Path, *callbacks: TrainerCallback, **values: Any) -> Trainer:
    arguments = TrainingArguments(
        str(folder), max_steps=TOTAL, per_device_train_batch_size=8, learning_rate=1e-2, logging_steps=10, seed=3,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, **values,
    )  # fmt: skip
    ours = tapertune.TapertuneCallback()
    return Trainer(model, arguments, train_dataset=Rows(), callbacks=[ours, *callbacks])


def controller_of(run: Trainer) -> Any:
    return next(c for c in run.callback_handler.callbacks if isinstance(c, tapertune.TapertuneCallback)).controller


def check(run: Trainer, model: nn.Module, folder: Path) -> None:
    controller = controller_of(run)
    assert controller.step == TOTAL
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert controller.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    events = read_events(folder / "events.jsonl")
    assert [e["type"] for e in events].count("start") == [e["type"] for e in events].count("end") == 1


def test_train_is_called_again_after_an_interruption(method: str, tmp_path: Path) -> None:
    model = adapted(method)
    run = trainer(model, tmp_path, Fails(33, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run.train()
    run.train()
    check(run, model, tmp_path)


def test_train_twice_and_a_second_trainer_beside_the_first(method: str, tmp_path: Path) -> None:
    """A second stage on a finished adapter, which trains on at its ranks."""
    model = adapted(method)
    first = trainer(model, tmp_path / "a")
    first.train()
    at_end = ranks(model)
    before = weights(model)
    first.train()
    check(first, model, tmp_path / "a")
    assert any(not torch.equal(before[name], value) for name, value in weights(model).items())
    if method in ("adalora", "lora2"):
        assert ranks(model) == at_end and sum(at_end) < len(at_end) * max(at_end)
    second = trainer(model, tmp_path / "b")  # with an optimizer of its own, while the first one lives
    second.train()
    check(second, model, tmp_path / "b")
    first.train()
    check(first, model, tmp_path / "a")


def test_the_batch_size_is_found_after_pruning(method: str, tmp_path: Path) -> None:
    error = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    model = adapted(method)
    run = trainer(model, tmp_path, Fails(33, error), auto_find_batch_size=True)
    run.train()
    check(run, model, tmp_path)


@pytest.mark.parametrize("stage", ["plain loop", "Trainer"])
def test_a_second_stage_on_a_saved_adapter(method: str, stage: str, tmp_path: Path) -> None:
    model = adapted(method)
    run = trainer(model, tmp_path / "first")
    run.train()
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(tiny_bert(), tmp_path / "adapter", is_trainable=True)
    assert ranks(again) == ranks(model)
    if stage == "Trainer":
        run = trainer(again, tmp_path / "second")
        run.train()
        check(run, again, tmp_path / "second")
    else:
        optimizer = adamw(again)
        controller = tapertune.attach(again, optimizer, total_steps=TOTAL)
        steps(again, optimizer, range(TOTAL))
        controller.finish()
        assert controller.step == TOTAL
    if method in ("adalora", "lora2"):
        assert ranks(again) == ranks(model)
    again.save_pretrained(tmp_path / "again")
    loaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "again").eval()
    assert torch.equal(loaded(**batch()).logits, again.eval()(**batch()).logits)


@pytest.mark.parametrize("compact", ["end", "on_event"])
def test_rank_zero_modules_stay_out_of_training(compact: str, tmp_path: Path) -> None:
    """Through a reload, PEFT's toggles and an optimizer that cannot bear them."""
    from adapt.stepping import adafactor

    base = mlp()
    values = {"init_r": 4, "target_r": 1, "tinit": 2, "tfinal": 6, "deltaT": 2, "plan": {"compact": compact}}
    torch.manual_seed(0)
    model: Any = get_peft_model(base, tapertune.make_config("adalora", target_modules=["0", "2"], **values))

    def run(model: Any) -> None:
        optimizer = adafactor([p for p in model.parameters() if p.requires_grad])
        controller = tapertune.attach(model, optimizer, total_steps=16)
        for t in range(16):
            generator = torch.Generator().manual_seed(t)
            with model.disable_adapter():
                model(torch.randn(2, 6, generator=generator))
            optimizer.zero_grad()
            # the first module's adapter has next to nothing to say
            out = model(torch.randn(8, 6, generator=generator) * 1e-3)
            (out - 1).pow(2).mean().backward()
            optimizer.step()
        controller.finish()

    with pytest.warns(UserWarning, match="starts anew"):
        run(model)
    assert 0 in ranks(model)
    assert all(p.numel() for p in model.parameters() if p.requires_grad)
    model.save_pretrained(tmp_path)
    again: Any = PeftModel.from_pretrained(mlp(), tmp_path, is_trainable=True)
    run(again)
    assert ranks(again) == ranks(model)
    assert all(p.numel() for p in again.parameters() if p.requires_grad)
    # ranks that come back, with a full checkpoint, train again
    torch.manual_seed(0)
    fresh: Any = get_peft_model(mlp(), tapertune.make_config("adalora", target_modules=["0", "2"], **values))
    again.load_state_dict(fresh.state_dict())
    optimizer = torch.optim.AdamW([p for n, p in again.named_parameters() if "adalora" in n])
    controller = tapertune.attach(again, optimizer, total_steps=16)
    assert set(controller.handles) == {name for name, h in controller.handles.items() if h.parameter.requires_grad}
