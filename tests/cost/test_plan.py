from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tapertune.cost import floor as floors
from tapertune.cost import pass_work
from tapertune.cost import plan as plans
from tapertune.cost.budget import Budget
from tapertune.cost.floor import Floor, floor_of
from tapertune.cost.plan import Estimate, plan_run, trained_over_time
from tapertune.cost.plan_search import Fit, check_fits, fit
from tapertune.cost.planned import Reads, config_of, cut, depth_of
from tapertune.cost.shapes import CONFIGS
from tapertune.errors import TapertuneError
from tapertune.methods import METHODS
from tapertune.runfile.settings import BASELINES, check_settings

READS = Reads(rows=320, mean=20, longest=32, evaluated=64)
ESTIMATES: dict[str, Estimate] = {}  # a second each, and several searches begin with the same


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model of five layers, and a place of its own for what is timed."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 5, "num_attention_heads": 2}
    monkeypatch.setitem(CONFIGS, "small", {"model_type": "bert", "vocab_size": 50, **sizes})
    monkeypatch.setenv("TAPERTUNE_CACHE", str(tmp_path / "cache"))


def raw(method: str = "lora", **changes: Any) -> dict[str, Any]:
    return {"model": "small", "task": {"name": "rte", "max_length": 32}, "method": {"name": method}, **changes}


def planned(settings: dict[str, Any], **others: Any) -> Estimate:
    return plan_run(check_settings(settings), **{"reads": READS, "timed": False, **others})


@pytest.mark.parametrize("method", [*METHODS, *BASELINES])
def test_a_few_layers_tell_of_all(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = planned(raw(method))
    monkeypatch.setattr(pass_work, "_DEPTHS", (4, 5))  # no layer is left to reckon
    whole = planned(raw(method))
    assert few.memory.total == pytest.approx(whole.memory.total, rel=1e-3)
    assert few.step_flops == pytest.approx(whole.step_flops, rel=1e-9)
    assert few.flops == pytest.approx(few.step_flops * 3 * 320 / 16)


@pytest.mark.parametrize("method", ["lora", "aflora", "full"])
def test_what_a_plan_says_is_what_a_run_records(method: str, root: Path) -> None:
    from train.tiny_run import raw_settings

    from tapertune.train.forecast import forecast
    from tapertune.train.prepare import prepare
    from tapertune.train.runner import run

    settings = check_settings(raw_settings(root, method, training__save_strategy="no", training__max_steps=12))
    said = forecast(prepare(settings))
    record = run(settings)
    # this model's files lack its pooler, which trains too; and the optimizer counts each tensor's steps
    pooler = 16 * 16 + 16
    assert said.head + pooler == record["parameters"]["head"]
    assert said.parameters.start == pytest.approx(record["parameters"]["start"], rel=0.15)
    known = 0 if method != "full" else pooler  # among the base model's weights
    kept = record["memory"]["optimizer_bytes_start"]
    assert said.memory.optimizer + 8 * (pooler - known) == pytest.approx(kept, rel=0.02)
    assert said.steps == record["steps"]
    assert said.flops == pytest.approx(record["flops"]["total"], rel=0.15)
    if method != "full":  # whose file holds the base model as well; others hold names beside the weights
        assert record["adapter_bytes"] > said.adapter_bytes > 0


def test_memory_follows_rows_dtype_and_quantisation() -> None:
    one = planned(raw(training={"per_device_train_batch_size": 4})).memory
    two = planned(raw(training={"per_device_train_batch_size": 8})).memory
    assert two.held == pytest.approx(2 * one.held, rel=0.02)
    half = planned(raw(dtype="bfloat16", training={"per_device_train_batch_size": 8})).memory
    assert 0.4 * two.held < half.held < 0.8 * two.held and half.weights < 0.7 * two.weights
    packed = planned(raw(quantization={"bits": 4}), device="cuda").memory
    assert packed.weights < planned(raw(), device="cuda").memory.weights
    cast = planned(raw(training={"per_device_train_batch_size": 8, "bf16": True})).memory
    assert cast.weights == two.weights and cast.held < two.held
    assert planned(raw(), process=1e9).memory.total == pytest.approx(planned(raw()).memory.total + 1e9, rel=0.05)


def test_times_are_the_floor_and_what_a_method_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "floor_of", lambda *args, **kwargs: Floor(forward=1.0, backward=2.0, call=1e-6))
    times = {name: planned(raw(name), timed=True).time for name in ("head", "lora", "full")}
    steps = [time.step for time in times.values() if time is not None]
    assert len(steps) == 3 and 1.0 < steps[0] < 3.0 < min(steps[1:])
    lora = times["lora"]
    assert lora is not None and lora.training is not None and lora.evaluating is not None and lora.minutes is not None
    assert lora.training == pytest.approx(60 * lora.step)
    assert lora.evaluating == pytest.approx(4 * 64 / 16, rel=0.5)  # three epochs and the end
    assert lora.minutes == pytest.approx((lora.training + lora.evaluating) / 60)
    twice = planned(raw(training={"gradient_accumulation_steps": 2}), timed=True).time
    assert twice is not None and twice.floor == 2 * lora.floor
    again = planned(raw(training={"gradient_checkpointing": True}), timed=True).time
    assert again is not None and again.step == pytest.approx(lora.step + 1.0, rel=0.05)


def test_the_floor_is_timed_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(check_settings(raw()))
    before = torch.random.get_rng_state()
    first = floor_of(config, "classification", 4, 16)
    assert first is not None and first.forward > 0 and first.backward > 0 and first.call > 0
    assert torch.equal(torch.random.get_rng_state(), before)
    monkeypatch.setattr(floors, "_timed", lambda *args: pytest.fail("it was timed before"))
    assert floor_of(config, "classification", 4, 16) == first
    longer = floor_of(config, "classification", 4, 17)  # timed in steps of eight tokens
    assert longer is not None and longer.forward == pytest.approx(first.forward * 17 / 16)
    (kept,) = floors.folder().glob("floor-*.json")
    kept.write_text("{half", encoding="utf-8")
    with pytest.raises(pytest.fail.Exception):
        floor_of(config, "classification", 4, 16)


def test_what_was_timed_on_a_busy_machine_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(check_settings(raw()))
    timed: list[int] = []
    monkeypatch.setattr(floors, "_timed", lambda *args: timed.append(1) or Floor(forward=1.0, backward=2.0, call=1e-6))
    monkeypatch.setattr(floors, "_clock", lambda device: time.perf_counter)  # as with several threads
    monkeypatch.setattr(floors.os, "getloadavg", lambda: (99.0, 99.0, 99.0))
    for _ in range(2):
        floor_of(config, "classification", 4, 16)
    monkeypatch.setattr(floors.os, "getloadavg", lambda: (0.5, 99.0, 99.0))
    for _ in range(2):
        floor_of(config, "classification", 4, 16)
    assert len(timed) == 3


def test_depths() -> None:
    config = config_of(check_settings(raw()))
    assert depth_of(config) == 5 and depth_of(cut(config, 2)) == 2
    for name in CONFIGS:
        if name != "small":
            kind = "gsm8k" if "lama" in name or "Qwen" in name or name == "smollm2" else "rte"
            assert depth_of(config_of(check_settings({"model": name, "task": kind, "method": "lora"}))) in (
                6,
                12,
                24,
                28,
                30,
                32,
            )


def found(method: str, **budget: Any) -> Fit:
    def estimated(settings: Any) -> Estimate:
        if "minutes" in budget:
            return plan_run(settings, reads=READS)
        key = json.dumps(settings.resolved(), sort_keys=True, default=str)
        if key not in ESTIMATES:
            ESTIMATES[key] = plan_run(settings, reads=READS, timed=False)
        return ESTIMATES[key]

    def counted(settings: Any) -> Any:
        return trained_over_time(settings, config_of(settings), READS)[1]

    return fit(raw(), method, Budget(**budget), estimated, counted)


@pytest.mark.parametrize("method", [*METHODS])
def test_a_rank_that_keeps_to_the_parameters(method: str) -> None:
    given = found(method, parameters=10**9)
    assert given.fits and not given.changes
    most = 0.7 * given.estimate.parameters.average
    less = found(method, parameters=int(most))
    if less.fits:
        assert less.estimate.parameters.average <= most
    else:  # vectors as long as the layers are wide stay, whatever the rank
        assert method in ("aflora", "elora")
    assert less.changes[f"method.{METHODS[method].rank}"] >= 1
    check_settings(less.raw)


def test_memory_takes_smaller_batches_and_then_half_precision() -> None:
    given = found("lora", memory=10**12)
    assert given.fits and not given.changes
    whole = given.estimate.memory.total
    for share, names in ((0.7, {"training.per_device_train_batch_size"}), (0.1, {"dtype"})):
        less = found("lora", memory=int(share * whole))
        assert less.fits and names <= set(less.changes), less.changes
        training = less.estimate.settings.training
        rows = training["per_device_train_batch_size"] * training.get("gradient_accumulation_steps", 1)
        assert rows == 16  # a step's rows stay
        assert less.estimate.memory.total <= share * whole
        assert check_settings(less.raw) == less.estimate.settings


def test_minutes_take_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "floor_of", lambda *args, **kwargs: Floor(forward=1.0, backward=2.0, call=1e-6))
    given = found("lora", minutes=10**6)
    assert given.estimate.time is not None and given.estimate.time.minutes is not None
    less = found("lora", minutes=given.estimate.time.minutes * 0.55)
    assert less.fits and 1 <= less.changes["training.num_train_epochs"] <= 1.65
    assert not found("lora", minutes=given.estimate.time.minutes / 10).fits


def test_where_nothing_fits_the_nearest_is_named() -> None:
    fits = [found(method, memory=1000) for method in ("lora", "loran")]
    with pytest.raises(TapertuneError, match=r"nothing fits --memory 1000B; the nearest is \w+ with .*dtype bfloat16"):
        check_fits(fits, "--memory 1000B")


def test_minutes_that_cannot_be_known_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "floor_of", lambda *args, **kwargs: None)
    with pytest.raises(TapertuneError, match="--minutes: how long a run takes cannot be known here"):
        found("lora", minutes=3)


@pytest.mark.parametrize("name", ["llama-2-7b", "Qwen/Qwen3-0.6", "minlim"])
def test_unknown_models_get_the_nearest_name(name: str) -> None:
    with pytest.raises(
        TapertuneError, match=r"unknown model .*did you mean '(meta-llama/Llama-2-7b-hf|Qwen/Qwen3-0.6B|minilm)'"
    ):
        config_of(check_settings({**raw(), "model": name}))
