"""Freezing whole layers from the bottom up: what it saves, beside other plans, and stopping and going on."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ddp_worker import worker
from merging import asked, made
from peft import PeftModel, get_peft_model
from processes import together
from tiny import Rows, batch, checkpoint, mlp
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tapertune
from tapertune.adapt import BottomUp, Controller, Decision, Plan, PolicyScope, Scores
from tapertune.adapt.bottom_up import layers_upward
from tapertune.errors import TapertuneError
from tapertune.events import EventLog, read_events
from tapertune.host import adapter_parameters
from tapertune.integrations import read_state, restore, save_state
from tapertune.integrations.loop import build_controller
from tapertune.kernels.update_flops import flops_per_token

TOTAL = 16
RAMP = {"kind": "cubic", "warmup": 2, "cooldown": 6, "every": 1}
UP = {"policy": {"kind": "bottom_up"}, "schedule": RAMP}
AFLORA = {"policy": {"kind": "lowest_fraction", "factors": ["A", "B"]}, "schedule": {**RAMP, "warmup": 1}}
NO_SCORES = Scores([], torch.zeros(0), [])


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def start(method: str = "lora", *, base: nn.Module | None = None, **values: Any) -> tuple[Any, torch.optim.Optimizer]:
    base = bert() if base is None else base
    torch.manual_seed(1)
    extra: dict[str, Any] = {"projection_scope": "all"} if method == "aflora" else {}
    config = tapertune.make_config(method, **{"modules_to_save": ["classifier"], **extra, **values})
    model = get_peft_model(base, config)  # type: ignore[arg-type]
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


def train(model: Any, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for t in steps:
        optimizer.zero_grad()
        model(**batch(seed=t)).loss.backward()
        optimizer.step()


def run(method: str = "lora", plan: Any = UP, **values: Any) -> tuple[Any, torch.optim.Optimizer, Controller]:
    """A run up to its last step, not finished."""
    model, optimizer = start(method, **values)
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL, plan=plan)
    train(model, optimizer, range(TOTAL))
    return model, optimizer, controller


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


# ---- the policy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("remaining", "frozen"), [(1.0, 0), (0.9, 0), (0.67, 0), (0.6, 1), (0.2, 2), (0, 3)])
def test_lowest_layers_are_due(remaining: float, frozen: int) -> None:
    scope = PolicyScope(scored=(), freeze_groups=(("0.A", "0.B"), ("1.A",), ("2.A", "2.B")))
    names = [name for group in scope.freeze_groups[:frozen] for name in group]
    assert BottomUp().decide(NO_SCORES, remaining, scope) == Decision(freeze=tuple(names))


@pytest.mark.parametrize(("layers", "count"), [(0.5, 2), (0.25, 1), (0.99, 3), (1, 1), (3, 3)])
def test_layers_that_may_freeze(layers: float, count: int) -> None:
    handles = {h.name: h for h in adapter_parameters(start("aflora")[0])}
    scope = BottomUp(layers=layers).scope(handles, set())
    assert [{handles[n].layer for n in group} for group in scope.freeze_groups] == [{i} for i in range(count)]
    assert all(len(group) == 6 * 4 for group in scope.freeze_groups)
    assert scope.scored == ()


def test_a_decoder_follows_its_encoder() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes: dict[str, Any] = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 32}
    model = start(base=T5ForConditionalGeneration(T5Config(**sizes)), modules_to_save=None)[0]
    order = [{name.rpartition(".layer.")[0] for name in layer} for layer in layers_upward(adapter_parameters(model))]
    assert order == [{"encoder.block.0"}, {"encoder.block.1"}, {"decoder.block.0"}, {"decoder.block.1"}]


@pytest.mark.parametrize("layers", [0, 0.0, 1.0, 1.5, -1, True, "half", None])
def test_bad_layers(layers: Any) -> None:
    with pytest.raises(TapertuneError, match=r"policy.layers is .*a share of the layers between 0.0 and 1.0, or"):
        Plan.from_dict({"policy": {"kind": "bottom_up", "layers": layers}})


@pytest.mark.parametrize("layers", [4, 9, 0.1])
def test_layers_that_do_not_fit_the_model(layers: float) -> None:
    model, optimizer = start()
    plan = {"policy": {"kind": "bottom_up", "layers": layers}, "schedule": RAMP}
    with pytest.raises(TapertuneError, match=rf"policy.layers is {layers}, .* lets \d of the 4 adapted layers freeze"):
        tapertune.attach(model, optimizer, total_steps=TOTAL, plan=plan)


def test_a_model_without_numbered_layers() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    model, optimizer = start(base=Named(), target_modules=["first", "second"], modules_to_save=None)
    with pytest.raises(TapertuneError, match=r"bottom_up needs numbered layers, such as .*: first, second"):
        tapertune.attach(model, optimizer, total_steps=TOTAL, plan=UP)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"kind": "bottom_up", "merge_frozen": 1}, "policy.merge_frozen is 1; it must be true or false"),
        ({"kind": "bottom_up", "layer": 1}, "did you mean 'layers'"),
        (
            {"kind": "lowest_fraction", "freeze_vectors": "yes"},
            "policy.freeze_vectors is 'yes'; it must be",
        ),
        (
            {"kind": "mean_below_quantile", "merge_frozen": None},
            "policy.merge_frozen is None; it must be true or false",
        ),
    ],
)
def test_bad_fields(policy: dict[str, Any], message: str) -> None:
    with pytest.raises(TapertuneError, match=message):
        Plan.from_dict({"policy": policy})


def test_a_plan_with_it_survives_json() -> None:
    plan = Plan.from_dict({"policy": {"kind": "bottom_up", "layers": 3, "merge_frozen": False}})
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


# ---- what it saves ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "aflora", "adalora", "loran"])
def test_backward_ends_at_the_lowest_layer_that_trains(method: str) -> None:
    plan = [UP] if method == "adalora" else UP
    model, optimizer, controller = run(method, plan)
    assert {h.layer for h in controller.handles.values() if h.name in controller.frozen} == {0, 1}
    assert {controller.frozen[n] for n in controller.frozen} == {4, 10}
    out = model(**batch(), output_hidden_states=True)
    states = out.hidden_states
    assert [state.grad_fn is None for state in states] == [True, True, True, False, False]
    model.zero_grad()
    out.loss.backward()
    for handle in adapter_parameters(model):
        trains = handle.layer in (2, 3)
        assert (handle.parameter.grad is not None) == (handle.parameter in optimizer.state) == trains
    assert controller.progress()[1:] == (len(controller.frozen), len(controller.freezable))
    assert len(controller.frozen) == len(controller.handles) // 2


def kept(model: Any) -> int:
    """Bytes of activations kept for backward."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    parameters |= {m.merged_weight._weight.untyped_storage().data_ptr() for m in model.modules() if made(m)}
    seen: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        keep = model(**batch(seed=99)).loss  # noqa: F841 - keeps the tensors' addresses alive
    return sum(seen.values())


def flops(model: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        model(**batch(seed=99)).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("fold", [True, False])
def test_frozen_layers_cost_what_layers_without_adapter_cost(fold: bool) -> None:
    plan = {"policy": {"kind": "bottom_up", "merge_frozen": fold}, "schedule": RAMP}
    model, _, controller = run(plan=plan, r=2)
    bare = start(layers_to_transform=[2, 3], r=2)[0]
    whole = start(r=2)[0]
    kept(model)  # computes the sums
    assert kept(model) == kept(bare) < kept(whole)

    frozen = {h.home.module_path: h.home for h in adapter_parameters(model) if h.layer in (0, 1)}
    chain = tapertune.METHODS["lora"].chain(tapertune.METHODS["lora"].settings(r=2))
    sizes = [{"d_in": layer.in_features, "d_out": layer.out_features, "r": 2} for layer in frozen.values()]
    forward = sum(flops_per_token(chain, s, [], input_grad=False, way="kernel").forward for s in sizes)
    assert flops(model) == flops(bare) + (0 if fold else 32 * forward) < flops(whole)
    controller.finish()
    assert flops(model) == flops(bare) + 32 * forward


def test_folding_changes_no_result() -> None:
    results = []
    for fold in (True, False):
        model, optimizer = start("aflora", r=2)
        model.double()
        plan = [AFLORA, {"policy": {"kind": "bottom_up", "merge_frozen": fold}, "schedule": RAMP}]
        controller = tapertune.attach(model, optimizer, total_steps=TOTAL, plan=plan)
        train(model, optimizer, range(TOTAL))
        assert any(asked(m) for m in model.modules()) == fold
        controller.finish()
        assert not any(asked(m) for m in model.modules())
        results.append((controller.frozen, weights(model), model(**batch(seed=50)).logits))
    assert results[0][0] == results[1][0]
    for name, value in results[0][1].items():
        assert torch.allclose(value, results[1][1][name], rtol=0, atol=1e-10)
    assert torch.allclose(results[0][2], results[1][2], rtol=0, atol=1e-10)


def test_base_is_never_written_to() -> None:
    model, optimizer = start()
    before = weights(model)
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL, plan=UP)
    train(model, optimizer, range(TOTAL))
    base = [name for name in before if "tapertune" not in name and "classifier" not in name]
    assert all(torch.equal(weights(model)[name], before[name]) for name in base)
    merged = copy.deepcopy(model).merge_and_unload()
    controller.finish()
    again = model.merge_and_unload()
    assert all(torch.equal(a, b) for a, b in zip(merged.parameters(), again.parameters(), strict=True))


# ---- beside other plans ----------------------------------------------------------------------------------------------


def test_beside_freezing_by_score(tmp_path: Path) -> None:
    model, optimizer = start("aflora", r=2)
    log = EventLog(tmp_path / "e.jsonl")
    late = {**AFLORA, "schedule": {**RAMP, "warmup": 3}}
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL, plan=[late, UP], events=log)
    train(model, optimizer, range(TOTAL))
    by_score, by_layer = (runner.frozen for runner in controller.runners)
    assert by_score and by_layer and not by_score.keys() & by_layer.keys(), "each factor freezes once"
    handles = controller.handles
    assert {n for n in handles if n not in controller.frozen} == {
        n for n, h in handles.items() if h.layer in (2, 3) and not h.matrix
    }
    events = [e for e in read_events(tmp_path / "e.jsonl") if e["type"] == "freeze"]
    names = [name for event in events for name in event["names"]]
    assert len(names) == len(set(names)) == len(controller.frozen) == len(controller.freezable)
    folds = [event["folded"] for event in events if "folded" in event]
    assert folds == [6, 12]
    for step in range(5, 10):  # matrices that went with their layer, at 4, count as frozen
        share = 1 - controller.plans[0].schedule.remaining(step, TOTAL)
        done = [n for n, s in controller.frozen.items() if s <= step and handles[n].matrix]
        assert len(done) == int(share * 48 + 1e-9)


def test_beside_a_rank_budget() -> None:
    """What has frozen keeps its ranks, and takes no part in the budget any more; penalties leave it alone."""
    budget = {
        "importance": {"kind": "|g*p|"},
        "schedule": {"kind": "cubic", "warmup": 1, "cooldown": 3, "every": 2},
        "policy": {"kind": "rank_budget", "gate": "E", "target": 2},
        "penalties": [{"kind": "orthogonality", "weight": 0.5}],
    }
    model, optimizer = start("adalora", init_r=4, target_r=2, tinit=1, tfinal=1)
    late = {**UP, "schedule": {**RAMP, "every": 3}}  # between two decisions on ranks
    events: list[tuple[str, int, dict[str, Any]]] = []
    controller = tapertune.attach(
        model,
        optimizer,
        total_steps=TOTAL,
        plan=[budget, late],
        events=lambda kind, step, **fields: events.append((kind, step, fields)),
    )
    seen: dict[str, torch.Tensor] = {}
    for t in range(TOTAL):
        train(model, optimizer, range(t, t + 1))
        for name in controller.frozen:
            value = controller.handles[name].parameter
            expected = seen.setdefault(name, value.detach().clone())
            assert value.grad is None
            if not controller.runners[0].compacted:
                assert torch.equal(value, expected)
    assert {controller.handles[n].layer for n in controller.frozen} == {0, 1}
    frozen = {h.module: h.name for h in controller.handles.values() if h.layer in (0, 1) and h.factor == "E"}
    at_freezing = {module: int(seen[name].count_nonzero()) for module, name in frozen.items()}
    controller.finish()
    assert {module: controller.ranks[module] for module in frozen} == at_freezing
    others = [rank for module, rank in controller.ranks.items() if module not in frozen]
    assert sum(others) == 2 * len(others)
    assert sum(at_freezing.values()) < 4 * len(at_freezing), "ranks that came back between two decisions do not stay"
    for kind, _, fields in events:
        if kind == "prune" and not fields["removed"]:
            assert sum(fields["ranks"].values()) <= fields["budget"]
    assert all(h.home.rank("default") == controller.ranks[h.module] for h in adapter_parameters(model))


def test_beside_shrinking_gates() -> None:
    shrink = {
        "policy": {"kind": "proximal", "gate": "g", "threshold": 3e-3},
        "schedule": {"kind": "constant", "value": 0.0, "every": 1},
    }
    model, optimizer = start("sora")
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL, plan=[shrink, UP])
    seen: dict[str, torch.Tensor] = {}
    for t in range(TOTAL):
        train(model, optimizer, range(t, t + 1))
        for name in controller.frozen:
            value = controller.handles[name].parameter
            assert torch.equal(value, seen.setdefault(name, value.detach().clone()))
    assert len(seen) == 2 * 6 * 3
    controller.finish()


@pytest.mark.parametrize("kind", ["lowest_fraction", "mean_below_quantile"])
def test_vectors_follow_the_last_of_their_matrices(kind: str) -> None:
    policy = {"kind": kind, "factors": ["A", "B"], "freeze_vectors": True, "merge_frozen": True}
    model, optimizer = start("aflora", r=2, projection_scope="ffn")
    controller = tapertune.attach(model, optimizer, total_steps=TOTAL, plan={"policy": policy, "schedule": RAMP})
    for t in range(TOTAL):
        train(model, optimizer, range(t, t + 1))
        handles = adapter_parameters(model)
        trains = {h.module for h in handles if h.matrix and h.parameter.requires_grad}
        for handle in handles:
            if handle.kind == "ffn" and not handle.matrix:
                assert handle.parameter.requires_grad == (handle.module in trains)
                assert bool(asked(handle.home)) != (handle.module in trains)
            elif not handle.matrix:
                assert handle.parameter.requires_grad, "attention: its matrices never trained"
    assert len(controller.frozen) == len(controller.freezable) == 4 * 2 * 4


def test_a_plan_that_leaves_nothing_to_train_is_refused() -> None:
    policy = {"kind": "lowest_fraction", "freeze_vectors": True}
    base = mlp()
    model, optimizer = start("aflora", base=base, target_modules=["0", "2"], modules_to_save=None)
    with pytest.raises(TapertuneError, match="freezes the whole adapter before the run is over"):
        tapertune.attach(model, optimizer, total_steps=TOTAL, plan={"policy": policy, "schedule": RAMP})
    to_the_end = {"policy": policy, "schedule": {**RAMP, "cooldown": 0}}
    tapertune.attach(model, optimizer, total_steps=TOTAL, plan=to_the_end)


# ---- stopping and going on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [2, 6, 13])
@pytest.mark.parametrize("way", ["state", "adapter"])
@pytest.mark.parametrize("method", ["lora", "aflora"])
def test_stopped_and_resumed_is_the_same_run(tmp_path: Path, method: str, stop: int, way: str) -> None:
    plan = [AFLORA, UP] if method == "aflora" else UP
    model, optimizer = start(method)
    whole = tapertune.attach(model, optimizer, total_steps=TOTAL, plan=plan, events=EventLog(tmp_path / "whole.jsonl"))
    train(model, optimizer, range(TOTAL))
    whole.finish()

    first, first_optimizer = start(method)
    log = EventLog(tmp_path / "cut.jsonl")
    cut = tapertune.attach(first, first_optimizer, total_steps=TOTAL, plan=plan, events=log)
    train(first, first_optimizer, range(stop))
    save_state(cut, tmp_path)
    first.save_pretrained(tmp_path / "adapter")
    state = copy.deepcopy((first.state_dict(), first_optimizer.state_dict()))

    second, second_optimizer = start(method)
    if way == "state":
        second.load_state_dict(state[0])
    else:  # the adapter's config says what is frozen, before the controller does
        order = [name for name, p in second.named_parameters() if p.requires_grad]
        second = PeftModel.from_pretrained(bert(), str(tmp_path / "adapter"), is_trainable=True)
        second_optimizer = torch.optim.AdamW([second.get_parameter(name) for name in order], lr=1e-2)
    second_optimizer.load_state_dict(state[1])
    log = EventLog(tmp_path / "cut.jsonl", keep=read_state(tmp_path)["json"]["events"])
    resumed = build_controller(second, total_steps=TOTAL, plan=plan, events=log)
    restore(resumed, tmp_path)
    resumed.attach(second_optimizer)
    assert {m.module_path for m in second.modules() if asked(m)} == {m.module_path for m in first.modules() if asked(m)}
    train(second, second_optimizer, range(stop, TOTAL))
    resumed.finish()

    expected = weights(model)
    assert all(torch.equal(value, expected[name]) for name, value in weights(second).items())
    assert resumed.frozen == whole.frozen and len(set(whole.frozen.values())) > 1
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_under_trainer(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    def trainer(folder: Path) -> Any:
        args = TrainingArguments(
            output_dir=str(folder), max_steps=TOTAL, per_device_train_batch_size=4, learning_rate=1e-2, save_steps=6,
            eval_strategy="steps", eval_steps=6, load_best_model_at_end=True, metric_for_best_model="eval_loss",
            logging_steps=4, report_to="none", use_cpu=True, disable_tqdm=True, seed=3,
        )  # fmt: skip
        callback = tapertune.TapertuneCallback(UP)
        return Trainer(start()[0], args, train_dataset=Rows(), eval_dataset=Rows(8), callbacks=[callback])

    whole = trainer(tmp_path / "a")
    whole.train()
    resumed = trainer(tmp_path / "a")
    (tmp_path / "a/checkpoint-16").rename(tmp_path / "last")
    resumed.train(resume_from_checkpoint=str(tmp_path / "a/checkpoint-12"))
    expected = weights(whole.model)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed.model).items())
    assert not any(asked(m) for m in whole.model.modules())
    freezes = [e for e in read_events(tmp_path / "a/events.jsonl") if e["type"] == "freeze"]
    assert [e["folded"] for e in freezes] == [6, 12]
    saved = PeftModel.from_pretrained(bert(), str(tmp_path / "last")).eval()
    best = Path(whole.state.best_model_checkpoint or "")
    again = PeftModel.from_pretrained(bert(), str(best if best.is_dir() else tmp_path / "last")).eval()
    assert torch.equal(again(**batch()).logits, whole.model.eval()(**batch()).logits)
    assert saved(**batch()).logits.shape == (4, 2)


# ---- where it saves less ---------------------------------------------------------------------------------------------


def asks_for_gradients(model: Any) -> None:
    model.enable_input_require_grads()


def checkpoints_reentrantly(model: Any) -> None:
    model.enable_input_require_grads()
    checkpoint(model.base_model.model, reentrant=True)


def trains_embeddings(model: Any) -> None:
    model.get_input_embeddings().weight.requires_grad_(True)


@pytest.mark.parametrize("cause", [asks_for_gradients, checkpoints_reentrantly, trains_embeddings])
def test_gradients_below_are_said_once(cause: Any) -> None:
    model, optimizer = start()
    cause(model)
    tapertune.attach(model, optimizer, total_steps=TOTAL, plan=UP)
    copy.deepcopy(model)
    with torch.no_grad():
        model.eval()(**batch())
    model.train()
    with pytest.warns(UserWarning, match=r"gradients go on below bert.encoder.layer.0.attention.self.query") as caught:
        train(model, optimizer, range(TOTAL))
    assert len(caught) == 1
    assert {h.layer for h in adapter_parameters(model) if h.parameter.grad is not None} == {2, 3}


def test_checkpointing_without_reentry_stops_as_well() -> None:
    plain, _, _ = run()
    model, optimizer = start()
    checkpoint(model.base_model.model, reentrant=False)
    model.disable_input_require_grads()
    model.train()
    tapertune.attach(model, optimizer, total_steps=TOTAL, plan=UP)
    tapertune.attach(model, optimizer, total_steps=TOTAL, plan=UP)  # a second one asks and warns no second time
    train(model, optimizer, range(TOTAL))
    states = model(**batch(), output_hidden_states=True).hidden_states
    assert [state.grad_fn is None for state in states] == [True, True, True, False, False]
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))


def test_under_ddp_frozen_layers_are_merged_too(tmp_path: Path) -> None:
    """The reducer is built anew without them, so that nothing waits for their gradients; they do not move."""
    together(worker, (str(tmp_path), {"policy": {"kind": "bottom_up"}}, True))
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert {name.split(".")[3] for name in one["frozen"]} == {"0"}
    assert one["frozen"] == two["frozen"]
    assert all(torch.equal(value, two["weights"][name]) for name, value in one["weights"].items())
