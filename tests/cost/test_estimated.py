from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tapertune.cost import estimated
from tapertune.cost.measured import base_flops
from tapertune.cost.shapes import CONFIGS, run_shape
from tapertune.cost.trace import calls
from tapertune.errors import TapertuneError
from tapertune.host import adapt_model
from tapertune.kernels import pass_flops
from tapertune.runfile.recipes import find_recipe
from tapertune.runfile.settings import RunSettings, adapter_config, check_settings, load_settings


def settings(**changes: Any) -> RunSettings:
    return check_settings({"model": "minilm", "task": "rte", "method": {"name": "lora"}, **changes})


# The released scripts' steps: those of four devices are single here, with as many rows to a step.
STEPS = {"cola": 2680, "mrpc": 1160, "stsb": 1800, "rte": 780, "sst2": 10530, "qnli": 4100, "mnli": 15340, "qqp": 14220}


@pytest.mark.parametrize("task", STEPS)
def test_steps_are_those_of_the_released_scripts(task: str) -> None:
    assert estimated.steps(load_settings(find_recipe(f"aflora/glue-{task}"))) == STEPS[task]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"task": {"name": "rte", "train_rows": 100}}, 21),
        ({"task": {"name": "qnli", "data": "sample"}}, 375),
        ({"training": {"max_steps": 7}}, 7),
        ({"training": {"num_train_epochs": 1, "dataloader_drop_last": True}}, 155),
        ({"training": {"num_train_epochs": 0.5}}, 78),
        ({"task": {"name": "rte", "train": "mine.jsonl", "validation": "dev.jsonl"}}, None),
    ],
)
def test_steps(changes: dict[str, Any], steps: int | None) -> None:
    assert estimated.steps(settings(**changes)) == steps


@pytest.mark.parametrize(("method", "lowest"), [("head", 0), ("full", 0), ("lora", 0), ("lora", 1)])
def test_the_base_model_costs_what_accounting_says(method: str, lowest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    from tapertune.cost.shapes import model_config

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    monkeypatch.setitem(CONFIGS, "tiny", {"model_type": "bert", "vocab_size": 20, **sizes})
    run = settings(model="tiny", method={"name": method, **({"layers_to_transform": [1]} if lowest else {})})
    shape = run_shape(run)
    assert shape is not None and shape.lowest == lowest

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(model_config("tiny"))
    if method == "head":
        model.bert.requires_grad_(False)
    elif method == "lora":
        model = adapt_model(model, adapter_config(run, ["classifier"]))
    head = [name for name, p in model.named_parameters() if "classifier" in name and p.requires_grad]
    length, batch = estimated.DATA["rte"].source, 16
    whole = length * sum(base_flops(model, calls(model, head, length), length).values())
    adapters = [part.adapter for part in shape.parts if part.adapter is not None]
    whole += sum(pass_flops([one], batch * length, input_grad=True) for one in adapters) / batch
    # the estimate takes the lowest layer whole, gradients of its input included, and the head too
    whole += {"full": 0, "head": 2 * 2 * 16, "lora": 2 * length * 3 * 16 * 16}[method]
    assert estimated.row_flops(run, shape) == pytest.approx(whole, rel=1e-12)


def adapter_flops(method: str, **changes: Any) -> float:
    run = settings(method={"name": method}, **changes)
    shape = run_shape(run)
    assert shape is not None
    bare = dataclasses.replace(shape, parts=tuple(dataclasses.replace(part, adapter=None) for part in shape.parts))
    return estimated.row_flops(run, shape) - estimated.row_flops(run, bare)


def test_an_adapter_costs_what_its_kernel_runs() -> None:
    length, batch = estimated.DATA["rte"].source, 16
    weights = 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    dense, update = 2 * length * weights, 2 * 64 * weights / batch  # with the update; of B and A, once a batch
    assert adapter_flops("loran") == pytest.approx(dense + 4 * update)
    assert adapter_flops("loran", dtype="bfloat16") == pytest.approx(3 * dense + 4 * update)
    assert adapter_flops("loran", quantization={"bits": 8}) == pytest.approx(3 * dense + 3 * update)
    inputs = outputs = 6 * (5 * 384 + 1536)
    low_rank = 2 * length * 256 * 2 * (inputs + outputs)  # factor by factor, for so few tokens
    one, many = (adapter_flops("elora", training={"per_device_train_batch_size": size}) for size in (1, 64))
    assert one == pytest.approx(low_rank) and many < 0.9 * low_rank  # many tokens are worth folded weights


def test_an_encoder_decoder_reads_its_source_and_writes_its_target() -> None:
    run = load_settings(find_recipe("adalora/xsum"))
    shape = run_shape(run)
    assert shape is not None
    source, target, width, inner, layers = 539, 29, 1024, 4096, 12
    square, wide = 2 * width * width, 2 * width * inner
    encoder = source * (4 * square + 2 * wide)
    decoder = target * (6 * square + 2 * wide) + source * 2 * square  # keys and values across are the source's
    vocabulary = target * 2 * width * 50265
    attention = 4 * width * layers * (source**2 + target**2 + source * target)
    frozen = 2 * (layers * (encoder + decoder) + vocabulary) + 3 * attention
    adapter = estimated.row_flops(run, shape) - frozen
    assert 0 < adapter < 0.05 * frozen  # rank 12 beside widths of 1024 and 4096


def test_epochs_are_counted_in_rows_and_a_limit_in_steps() -> None:
    shape = run_shape(settings())
    assert shape is not None
    row = estimated.row_flops(settings(), shape)
    assert estimated.flops(settings(), shape) == 3 * 2490 * row
    assert estimated.flops(settings(training={"max_steps": 5}), shape) == 5 * 16 * row
    assert estimated.flops(settings(task={"name": "rte", "train": "a.jsonl", "validation": "b.jsonl"}), shape) is None


def test_phases_longer_than_the_run_are_refused() -> None:
    run = load_settings(find_recipe("adalora/squad"), {"training.max_steps": 300})  # as the released script
    shape = run_shape(run)
    assert shape is not None
    with pytest.raises(TapertuneError, match=r"plan: schedule.warmup 5000 and schedule.cooldown 25000 take 30000"):
        estimated.check_plans(run, shape)
