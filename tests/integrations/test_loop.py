"""The controller in plain loops: what freezing frees, and stopping and going on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import batch, mlp, tiny_bert
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tapertune
from tapertune.adapt import Controller, optimizer_bytes
from tapertune.events import EventLog, read_events
from tapertune.host import adapter_parameters
from tapertune.integrations import new_checkpoint, read_state, restore, save_state
from tapertune.kernels.update_flops import flops_per_token

TOTAL = 24
PLAN = {"schedule": {"warmup": 4, "cooldown": 8, "every": 2}}
RELEASED = {
    "importance": {"window": 3},
    "schedule": {"kind": "quadratic", "warmup": 2, "cooldown": 8, "every": 2},
    "policy": {"kind": "mean_below_quantile"},
    "final_update": False,
}


def start(method: str = "aflora", **values: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    base = tiny_bert()
    torch.manual_seed(1)
    values = {"projection_scope": "all", **values} if method == "aflora" else values
    model = get_peft_model(base, tapertune.make_config(method, r=2, modules_to_save=["classifier"], **values))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    return model, optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for t in steps:
        optimizer.zero_grad()
        model(**batch(seed=t)).loss.backward()
        optimizer.step()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("plan", [PLAN, RELEASED], ids=["paper", "released"])
@pytest.mark.parametrize("stop", [1, 7, 15, 23])
def test_stopped_and_resumed_is_the_same_run(tmp_path: Path, plan: dict, stop: int) -> None:
    def attach(model: nn.Module, optimizer: torch.optim.Optimizer, log: EventLog) -> Controller:
        return tapertune.attach(model, optimizer, total_steps=TOTAL, plan=plan, events=log)

    model, optimizer = start()
    whole = attach(model, optimizer, EventLog(tmp_path / "whole.jsonl"))
    train(model, optimizer, range(TOTAL))
    whole.finish()
    assert whole.frozen and len(set(whole.frozen.values())) > 2

    first, first_optimizer = start()
    cut = attach(first, first_optimizer, EventLog(tmp_path / "cut.jsonl"))
    train(first, first_optimizer, range(stop))
    save_state(cut, tmp_path)
    saved = {"model": copy.deepcopy(first.state_dict()), "optimizer": copy.deepcopy(first_optimizer.state_dict())}
    train(first, first_optimizer, range(stop, min(stop + 3, TOTAL)))  # work that the interruption loses

    second, second_optimizer = start()
    second.load_state_dict(saved["model"])
    second_optimizer.load_state_dict(saved["optimizer"])
    log = EventLog(tmp_path / "cut.jsonl", keep=read_state(tmp_path)["json"]["events"])
    resumed = tapertune.integrations.loop.build_controller(second, total_steps=TOTAL, plan=plan, events=log)
    restore(resumed, tmp_path)
    resumed.attach(second_optimizer)
    train(second, second_optimizer, range(stop, TOTAL))
    resumed.finish()

    expected = weights(model)
    assert all(torch.equal(value, expected[name]) for name, value in weights(second).items())
    assert resumed.frozen == whole.frozen
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    for name, tensor in whole.state_dict()["tensors"].items():
        assert torch.equal(resumed.state_dict()["tensors"][name], tensor)


def test_freezing_frees() -> None:
    """Optimizer state, gradients, saved activations and backward work, measured."""
    model, optimizer = start()
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL, plan=PLAN)

    def activations() -> int:
        seen: dict[int, int] = {}

        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def pack(t: torch.Tensor) -> torch.Tensor:
            storage = t.untyped_storage()
            if storage.data_ptr() not in weights:
                seen[storage.data_ptr()] = storage.nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            keep = model(**batch(seed=99))  # noqa: F841 - keeps the graph, and so the tensors' addresses, alive
        return sum(seen.values())

    def flops() -> int:
        with FlopCounterMode(display=False) as counter:
            model(**batch(seed=99)).loss.backward()
        model.zero_grad()
        return counter.get_total_flops()

    train(model, optimizer, range(1))
    handles = {h.name: h for h in adapter_parameters(model)}
    matrices = [h for h in handles.values() if h.matrix]
    before = optimizer_bytes(optimizer)
    activations_before, flops_before = activations(), flops()
    train(model, optimizer, range(1, TOTAL))
    assert controller.progress()[1:] == (len(matrices), len(matrices))

    gone = sum(h.parameter.numel() for h in matrices)
    steps = 4  # AdamW's step counter, a float32 scalar
    assert before - optimizer_bytes(optimizer) == gone * 2 * 4 + len(matrices) * steps
    assert not any(h.parameter in optimizer.state for h in matrices)
    assert all(h.parameter.grad is None for h in matrices)
    model(**batch()).loss.backward()
    assert all(h.parameter.grad is None for h in matrices)
    assert all(h.parameter.grad is not None for h in handles.values() if not h.matrix)
    model.zero_grad()

    # 32 tokens; gone are, in each of two layers, the inputs kept for A alone: of query, key and value (one tensor), of
    # the intermediate and of the output layer
    assert activations_before - activations() >= 2 * 32 * (16 + 16 + 32) * 4
    row = tapertune.METHODS["aflora"]
    chain = row.chain(row.settings(r=2))
    saving = 0
    for layer in {id(h.home): h.home for h in matrices}.values():
        sizes = {"d_in": layer.in_features, "d_out": layer.out_features, "r": 2}
        lowest = "layer.0.attention.self" in layer.module_path  # the frozen embeddings below want no gradient
        cost = [
            flops_per_token(chain, sizes, names, input_grad=not lowest, way="kernel").total
            for names in (None, ["d", "b"])
        ]
        saving += cost[0] - cost[1]
    assert flops_before - flops() == 32 * saving > 0


def test_a_frozen_matrix_moves_no_more() -> None:
    """Adam's momentum would move it on, weight decay as well, were the gradient only zero."""
    model, optimizer = start()
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL, plan=PLAN)
    history: list[dict[str, torch.Tensor]] = []
    for t in range(TOTAL):
        train(model, optimizer, range(t, t + 1))
        history.append({h.name: h.parameter.detach().clone() for h in adapter_parameters(model)})
    for name, step in controller.frozen.items():
        assert not torch.equal(history[step][name], history[step - 1][name]), "the step at which it freezes counts"
        assert torch.equal(history[-1][name], history[step][name])


def test_without_final_update_the_freezing_step_is_skipped() -> None:
    model, optimizer = start()
    plan = {**PLAN, "final_update": False}
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL, plan=plan)
    before = {}
    for t in range(TOTAL):
        frozen = set(controller.frozen)
        before = {h.name: h.parameter.detach().clone() for h in adapter_parameters(model)}
        train(model, optimizer, range(t, t + 1))
        for h in adapter_parameters(model):
            if h.name in set(controller.frozen) - frozen:
                assert torch.equal(h.parameter, before[h.name])
    assert controller.frozen


def test_events_tell_what_happened(tmp_path: Path) -> None:
    model, optimizer = start()
    log = EventLog(tmp_path / "events.jsonl")
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL, plan=PLAN, events=log)
    train(model, optimizer, range(TOTAL))
    controller.finish()
    events = read_events(tmp_path / "events.jsonl")
    first, *freezes, last = events
    assert first["type"] == "start" and first["method"] == "aflora" and first["total_steps"] == TOTAL
    assert (tapertune.Plan.from_dict(first["plan"]),) == controller.plans
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert first["other_trainable"] == 2 * 16 + 2
    assert last["type"] == "end" and last["trainable"] == trainable == freezes[-1]["trainable"]
    sizes = {f["name"]: torch.Size(f["shape"]).numel() for f in first["factors"]}
    level, total, at = first["trainable"], 0, {e["step"]: e for e in freezes}
    for t in range(TOTAL):
        total += level  # a matrix that freezes at t still trained in t
        if t in at:
            level -= sum(sizes[name] for name in at[t]["names"])
            assert level == at[t]["trainable"]
    assert last["average_trainable"] == pytest.approx(total / TOTAL)
    assert {name: e["step"] for e in freezes for name in e["names"]} == controller.frozen
    assert {f["row"] for f in first["factors"] if f["factor"] == "A"} == {
        "attn.query.A", "attn.key.A", "attn.value.A", "attn.out.A", "inter.A", "out.A"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("scope", "kinds"), [("ffn", {"ffn"}), ("attention", {"attention"}), ("all", {"ffn", "attention"})]
)
def test_projection_scope(scope: str, kinds: set[str]) -> None:
    model, optimizer = start(projection_scope=scope)
    handles = adapter_parameters(model)
    assert {h.kind for h in handles if h.matrix and h.parameter.requires_grad} == kinds
    assert all(h.parameter.requires_grad for h in handles if not h.matrix)
    assert all(h.parameter.any() for h in handles if h.matrix), "those that do not train are random, not zero"
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL)
    assert {h.kind for h in handles if h.name in controller.freezable} == kinds


def test_freezing_of_a_method_without_a_plan_is_a_setting() -> None:
    """AFLoRA's plan on LoRA's chain."""
    plan = {
        "schedule": {"kind": "cubic", "warmup": 4, "cooldown": 8, "every": 2},
        "policy": {"kind": "lowest_fraction"},
    }
    model, optimizer = start("lora", plan=plan)
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL)
    train(model, optimizer, range(TOTAL))
    assert len(controller.frozen) == len(controller.freezable) == 24
    assert controller.trainable == controller.other_trainable


def test_a_plan_that_nobody_runs_warns_once() -> None:
    model, optimizer = start()
    with pytest.warns(UserWarning, match="trains an adapter .aflora. whose plan nobody runs") as caught:
        train(model, optimizer, range(3))
    assert len(caught) == 1
    lora, optimizer = start("lora")
    train(lora, optimizer, range(2))  # nothing to run, nothing to say
    followed, optimizer = start()
    tapertune.attach(followed, optimizer, total_steps=TOTAL)
    train(followed, optimizer, range(2))


def test_lora_without_a_plan_is_only_counted(tmp_path: Path) -> None:
    model, optimizer = start("lora")
    controller = tapertune.attach(model, optimizer, total_steps=3, events=EventLog(tmp_path / "e.jsonl"))
    train(model, optimizer, range(3))
    controller.finish()
    assert controller.progress()[1:] == (0, 0)
    assert controller.average_trainable == controller.trainable == controller.trainable_start
    assert [e["type"] for e in read_events(tmp_path / "e.jsonl")] == ["start", "end"]
    state = controller.state_dict()
    controller.load_state_dict(state)


def test_a_step_that_a_scaler_skips_moves_nothing() -> None:
    model, optimizer = start()
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL, plan=PLAN)
    scaler = torch.amp.GradScaler("cpu")
    train(model, optimizer, range(2))
    state = copy.deepcopy(controller.state_dict())
    optimizer.zero_grad()
    scaler.scale(model(**batch()).loss * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    after = controller.state_dict()
    assert after["json"] == state["json"]
    assert all(torch.equal(after["tensors"][k], v) for k, v in state["tensors"].items())


def test_modules_without_gradient_do_not_disturb() -> None:
    base = mlp()
    base.add_module("unused", nn.Linear(4, 4))
    base.forward = lambda x: base[2](base[1](base[0](x)))  # type: ignore[method-assign]
    config = tapertune.make_config("aflora", target_modules=["0", "2", "unused"], projection_scope="all")
    model = get_peft_model(base, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    controller = tapertune.attach(model, optimizer, total_steps=10, plan={"schedule": {"every": 1}})
    for _ in range(10):
        model(torch.randn(3, 6)).sum().backward()
        optimizer.step()
    assert len(controller.frozen) == 6


def test_attach_refuses_what_cannot_be() -> None:
    model, optimizer = start()
    for values, message in (
        ({"total_steps": 0}, "total_steps is 0"),
        ({"total_steps": 50, "plan": {"schedule": {"warmup": 60}}}, "take 95 of the run's 50 steps"),
        ({"total_steps": 50, "adapter_name": "other"}, "no adapter 'other'; its adapters: default"),
        ({"total_steps": 50, "plan": {"policy": {"factors": ["A", "C"]}}}, "policy.factors names C"),
    ):
        with pytest.raises(tapertune.TapertuneError, match=message):
            tapertune.attach(model, optimizer, **values)
    with pytest.raises(tapertune.TapertuneError, match="no adapter 'default'; its adapters: none"):
        tapertune.attach(mlp(), optimizer, total_steps=5)
    from peft import LoraConfig

    with pytest.raises(tapertune.TapertuneError, match="not one of tapertune's methods"):
        tapertune.attach(get_peft_model(tiny_bert(), LoraConfig()), optimizer, total_steps=5)


def test_bad_state_files(tmp_path: Path) -> None:
    model, optimizer = start()
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL, plan=PLAN)
    train(model, optimizer, range(3))
    with pytest.raises(tapertune.TapertuneError, match="is missing"):
        restore(controller, tmp_path)
    path = save_state(controller, tmp_path)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"not a state"):
        path.write_bytes(data)
        with pytest.raises(tapertune.TapertuneError, match="not a whole state file"):
            restore(controller, tmp_path)
    path.write_bytes(whole)
    restore(controller, tmp_path)
    state = read_state(tmp_path)
    for key, value, message in (
        ("version", 99, "schema 99"),
        ("total_steps", 7, "had total_steps 7, this one has 24"),
        ("method", "lora", "had method 'lora'"),
    ):
        with pytest.raises(tapertune.TapertuneError, match=message):
            controller.load_state_dict({**state, "json": {**state["json"], key: value}})
    with pytest.raises(tapertune.TapertuneError, match="saved averages, mean"):
        controller.load_state_dict({**state, "tensors": {"0.mean": torch.zeros(3)}})


def test_accelerate_with_accumulation(tmp_path: Path) -> None:
    """One controller step per real optimizer step, through Accelerate's wrapper."""
    from accelerate import Accelerator
    from accelerate.state import GradientState

    # a Trainer of an earlier test that is not collected yet would count as still at its data
    GradientState._reset_state()
    model, optimizer = start()
    accelerator = Accelerator(gradient_accumulation_steps=3, cpu=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    controller = tapertune.attach(model, optimizer, total_steps=4, plan={"schedule": {"warmup": 0, "every": 1}})
    for t in range(12):
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch(seed=t)).loss)
            optimizer.step()
            optimizer.zero_grad()
    assert controller.step == 4
    assert controller.frozen


def test_a_checkpoint_that_has_been_damaged_is_not_restored(tmp_path: Path) -> None:
    model, optimizer = start()
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL)
    train(model, optimizer, range(2))
    with new_checkpoint(tmp_path, 2) as folder:
        save_state(controller, folder)
        torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    restore(controller, folder)
    (folder / "optimizer.pt").unlink()
    with pytest.raises(tapertune.TapertuneError, match=r"cannot go on from .*checkpoint-2': optimizer\.pt is missing"):
        restore(controller, folder)
