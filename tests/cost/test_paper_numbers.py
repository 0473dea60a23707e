"""The papers' figures for DeBERTaV3-base, by arithmetic from its shapes.

Its 72 adapted modules have 165,888 inputs and outputs together, 82,944 outputs and 84,934,656 weights.
"""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from tapertune.cost.over_time import over_time
from tapertune.cost.shapes import Shape, base_model, run_shape
from tapertune.runfile.recipes import find_recipe
from tapertune.runfile.settings import load_settings

DEBERTA = "microsoft/deberta-v3-base"
WIDTH, LAYERS, LENGTH = 768, 12, 256  # of the released scripts' rows


def shape(recipe: str, **changes: Any) -> Shape:
    found = run_shape(load_settings(find_recipe(recipe), {f"method.{name}": value for name, value in changes.items()}))
    assert found is not None
    return found


AFLORA, ELORA = ("aflora/glue-rte", {}), ("elora/glue-rte", {"r": 1024})


def total_flos(recipe: str, changes: dict[str, Any]) -> float:
    """For one token: Trainer's ``total_flos`` is six times the parameters without the embeddings, the frozen ones and
    the head's second copy included."""
    model = base_model(DEBERTA, "classification")
    embedded = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))
    run = shape(recipe, **changes)
    classifier = sum(p.numel() for p in model.classifier.parameters())
    # the released code leaves the pooler as it is, and saves the classifier alone
    return 6.0 * (run.base - embedded + classifier + run.held)


def test_total_flos_of_elora_are_2_96_of_aflora() -> None:
    assert total_flos(*AFLORA) / 6 == 85_651_204 + 746_784
    assert total_flos(*ELORA) / 6 == 85_651_204 + 170_025_984
    assert total_flos(*ELORA) / total_flos(*AFLORA) == pytest.approx(2.96, abs=0.005)
    # the bars of the paper's Figure 3, as shares of ELoRA's
    assert total_flos(*AFLORA) / total_flos(*ELORA) == pytest.approx(0.338, abs=0.001)
    assert total_flos("lora/glue-mnli", {"r": 8}) / total_flos(*ELORA) == pytest.approx(0.340, abs=0.001)


def forward(recipe: str, changes: dict[str, Any], length: int = 0) -> float:
    """Operations of a token's forward pass in the adapted layers and, at a length, in attention's two products."""
    run = shape(recipe, **changes)
    layers = [part for part in run.parts if part.adapter is not None]
    rank = {part.adapter.spec.rank for part in layers if part.adapter is not None}
    assert len(rank) == 1 and sum(part.weights for part in layers) == 84_934_656
    sides = sum(p.adapter.sizes["d_in"] + p.adapter.sizes["d_out"] for p in layers if p.adapter is not None)
    assert sides == 165_888
    return 2.0 * (84_934_656 + rank.pop() * sides) + 4.0 * LAYERS * length * WIDTH


def test_true_ratios_are_2_98_in_linear_layers_and_2_87_with_attention() -> None:
    assert forward(*ELORA) / forward(*AFLORA) == pytest.approx(2.98, abs=0.005)
    assert forward(*ELORA, LENGTH) / forward(*AFLORA, LENGTH) == pytest.approx(2.87, abs=0.005)


def test_parameters() -> None:
    assert shape("elora/glue-rte", r=1024).start == pytest.approx(0.16e6, abs=0.005e6)
    lora = shape("lora/glue-mnli", r=8).start
    assert lora == pytest.approx(1.33e6, abs=0.005e6)
    assert shape("lora2/glue-mnli", k=1, init_r=8).start == pytest.approx(0.17e6, abs=0.005e6)
    # AFLoRA: projections of the feed-forward layers alone, with the schedule of ten epochs of which seven are frozen
    run = shape("aflora/glue-sst2")
    aflora = over_time(run, 10_530).average
    assert aflora == pytest.approx(0.14e6, abs=0.005e6)
    assert (run.start, run.vectors) == (451_872, 83_232)  # 0.45M and 0.08M: all trained, and all frozen
    assert lora / 0.14e6 == pytest.approx(9.5, abs=0.05) and 9.1 < lora / aflora < 9.7
    # AdaLoRA at a mean rank of 8: 1.33M were the budget spread evenly; 1.27M have 167 of 576 triplets in the
    # feed-forward layers, which are wider
    attention, feed_forward = 768 + 768 + 1, 768 + 3072 + 1
    assert 409 * attention + 167 * feed_forward == pytest.approx(1.27e6, abs=0.005e6)
    assert 384 * attention + 192 * feed_forward == pytest.approx(1.33e6, abs=0.005e6)


def test_lora2_scores_98_5_to_99_3_percent_fewer() -> None:
    # at rank 8 in both; of the five factors LoRA^2 scores the middle three
    lora2 = shape("lora2/glue-mnli", init_r=8, k=8).stakes[0][0]
    adalora = shape("adalora/glue-rte", init_r=8, target_r=4).stakes[0][0]
    assert (lora2, adalora) == (72 * 17 * 8, 8 * (165_888 + 72))
    assert 1 - lora2 / adalora == pytest.approx(0.993, abs=0.001)
    inside = {"target_modules": ["query_proj", "key_proj", "value_proj"]}
    of_attention = shape("lora2/glue-mnli", init_r=8, k=8, **inside).stakes[0][0]
    assert 0.985 < 1 - of_attention / shape("adalora/glue-rte", init_r=8, target_r=4, **inside).stakes[0][0] < 0.993
