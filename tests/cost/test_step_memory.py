"""Bytes reckoned without storage are those that the same step makes with it."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import pytest
import torch

from tapertune.cost.planned import batch, config_of, cut, trained_model
from tapertune.cost.shapes import CONFIGS, base_of
from tapertune.cost.step_memory import counted, step_bytes
from tapertune.host import adapt_model
from tapertune.methods import METHODS
from tapertune.runfile.settings import BASELINES, RunSettings, adapter_config, check_settings

TINY: dict[str, dict[str, Any]] = {
    "tiny-bert": {
        "model_type": "bert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 40,
    },
    "tiny-llama": {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40, "pad_token_id": 0,
    },
}  # fmt: skip
ROWS, TOKENS = 4, 12


def settings(monkeypatch: pytest.MonkeyPatch, model: str, method: str, **changes: Any) -> RunSettings:
    for name, values in TINY.items():
        monkeypatch.setitem(CONFIGS, name, values)
    task = "gsm8k" if model == "tiny-llama" else "rte"
    block = {"name": method, **({"r": 4} if method in ("elora", "loran") else {})}
    return check_settings({"model": model, "task": task, "method": block, **changes})


def real_bytes(run: RunSettings, config: Any, kind: str) -> tuple[int, int]:
    """What a step of the same model holds after forward, and at most."""
    model = base_of(config, kind, device="cpu")
    if run.method.name not in BASELINES:
        head = [] if kind == "causal_lm" else ["classifier"]
        model = adapt_model(model, adapter_config(run, head or None))
    elif run.method.name == "head":
        model.requires_grad_(False)
        model.classifier.requires_grad_(True)
    inputs = {name: torch.zeros_like(t, device="cpu") for name, t in batch(kind, config, ROWS, TOKENS).items()}
    gc.collect()
    with warnings.catch_warnings(), counted() as live:
        warnings.simplefilter("ignore")  # no controller follows the plans here
        loss = model.train()(**inputs).loss
        held = live.bytes
        loss.backward()
    return held, live.peak


ROWS_OF_METHODS = [("tiny-bert", method) for method in (*METHODS, *BASELINES)] + [
    ("tiny-llama", method) for method in METHODS
]


@pytest.mark.parametrize(("model", "method"), ROWS_OF_METHODS)
def test_a_step_without_storage_holds_what_one_with_it_does(
    model: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = settings(monkeypatch, model, method)
    config, kind = config_of(run), run.task.declaration().kind
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = step_bytes(trained_model(run, config, kind), batch(kind, config, ROWS, TOKENS))
    held, peak = real_bytes(run, config, kind)
    assert said.held == pytest.approx(held, rel=0.05)
    assert said.peak == pytest.approx(peak, rel=0.05)


def test_an_evaluation_holds_less_than_a_step_of_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    run = settings(monkeypatch, "tiny-bert", "lora")
    config = config_of(run)
    inputs = batch("classification", config, ROWS, TOKENS)
    said = step_bytes(trained_model(run, config, "classification"), inputs, inputs)
    assert 0 < said.forward < said.held


def test_layers_that_compute_their_activations_again_hold_less(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    for again in (False, True):
        run = settings(monkeypatch, "tiny-bert", "lora", training={"gradient_checkpointing": again})
        config = cut(config_of(run), 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers has another name for it as well
            model = trained_model(run, config, "classification")
        held.append(step_bytes(model, batch("classification", config, ROWS, TOKENS)).held)
    assert held[1] < held[0] / 2
