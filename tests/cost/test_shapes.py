from __future__ import annotations

from typing import Any

import pytest

from tapertune.cost.shapes import CONFIGS, base_model, run_shape
from tapertune.errors import TapertuneError
from tapertune.runfile.recipes import find_recipe
from tapertune.runfile.settings import RunSettings, check_settings, load_settings

# Of the published models, or by hand from their sizes.
SIZES = {
    ("microsoft/deberta-v3-base", "classification"): 184_423_682,
    ("FacebookAI/roberta-base", "classification"): 124_647_170,
    ("FacebookAI/roberta-large", "classification"): 355_361_794,
    ("facebook/bart-large", "seq2seq"): 406_291_456,
    ("yahma/llama-7b-hf", "causal_lm"): 6_738_415_616,
    ("meta-llama/Llama-2-7b-hf", "causal_lm"): 6_738_415_616,
    ("meta-llama/Llama-3.1-8B", "causal_lm"): 8_030_261_248,
    ("Qwen/Qwen3-0.6B", "causal_lm"): 596_049_920,
    ("minilm", "classification"): 22_713_986,
    ("smollm2", "causal_lm"): 134_515_008,
}


@pytest.mark.parametrize(("name", "kind"), SIZES, ids=lambda value: value)
def test_models_have_their_published_sizes(name: str, kind: str) -> None:
    model = base_model(name, kind)
    assert sum(p.numel() for p in model.parameters()) == SIZES[name, kind]
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_every_model_of_the_table_has_its_size_checked() -> None:
    assert {name for name, _ in SIZES} == set(CONFIGS)


# (recipe, changes): parameters at the start, vectors, modules; all as the papers report them or by arithmetic from
# DeBERTaV3-base's widths: its 72 adapted modules have 165,888 inputs and outputs together, 82,944 outputs.
COUNTS: list[tuple[str, dict[str, Any], int, int, int]] = [
    ("aflora/glue-rte", {}, 451_872, 83_232, 72),
    ("aflora/glue-rte", {"method.projection_scope": "attention"}, 378_144, 83_232, 72),
    ("aflora/glue-rte-paper", {}, 746_784, 83_232, 72),
    ("aflora/glue-mnli-released", {}, 94_371_840 + 156_672, 156_672, 72),
    ("aflora/gsm8k", {}, 56_098_816 + 881_664, 881_664, 160),
    ("lora/gsm8k", {}, 56_098_816, 0, 160),
    ("lora/glue-mnli", {}, 1_327_104, 0, 72),
    ("elora/glue-rte", {}, 156_672, 156_672, 72),
    ("elora/glue-rte", {"method.shared": True}, 156_672, 156_672, 72),
    ("elora/glue-rte", {"method.r": 256}, 101_376, 101_376, 72),
    ("elora/glue-mrpc-roberta", {}, 43_008, 43_008, 24),
    ("elora/glue-mrpc-roberta", {"model": "FacebookAI/roberta-large", "method.r": 256}, 61_440, 61_440, 48),
    ("adalora/glue-rte", {}, 1_991_520, 864, 72),
    ("adalora/squad-v2", {}, 1_991_520, 864, 72),
    ("adalora/xsum", {}, 12 * (540_672 + 192), 12 * 192, 192),
    ("adalora/cnn-dailymail", {}, 4 * (540_672 + 192), 4 * 192, 192),
    ("lora2/glue-mnli", {}, 1_336_896, 576, 72),
    ("lora2/glue-mnli", {"method.k": 1}, 165_888 + 72 * 24, 576, 72),
    ("loran/samsum", {}, 33_554_432, 0, 64),
    ("loran/newsgroups20", {"method.activation": "identity"}, 33_554_432, 0, 64),
    ("sora/glue-stsb", {}, 1_327_680, 576, 72),
    ("full/glue-rte", {}, 184_423_682 - 592_130, 0, 0),
]


@pytest.mark.parametrize(
    ("recipe", "changes", "start", "vectors", "modules"),
    COUNTS,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_trains_is_what_the_papers_count(
    recipe: str, changes: dict[str, Any], start: int, vectors: int, modules: int
) -> None:
    shape = run_shape(load_settings(find_recipe(recipe), changes))
    assert shape is not None
    assert (shape.start, shape.vectors, shape.modules) == (start, vectors, modules)


def settings(**changes: Any) -> RunSettings:
    return check_settings({"model": "minilm", "task": "rte", "method": {"name": "lora"}, **changes})


def test_the_head_is_apart() -> None:
    shape = run_shape(settings())
    assert shape is not None
    assert (shape.head, shape.base) == (2 * 384 + 2, 22_713_986)
    whole = run_shape(settings(method="full"))
    assert whole is not None and whole.start + whole.head == whole.base
    head = run_shape(settings(method="head"))
    assert head is not None and (head.start, head.head) == (0, 770)


def test_models_that_are_not_in_the_table_are_not_known() -> None:
    assert run_shape(settings(model="somewhere/else")) is None


def test_targets_that_the_model_lacks_are_refused() -> None:
    with pytest.raises(TapertuneError, match="no module is called 'querry'; did you mean 'query'"):
        run_shape(settings(method={"name": "lora", "target_modules": ["querry"]}))


def test_a_plan_that_the_adapter_cannot_follow_is_refused() -> None:
    with pytest.raises(TapertuneError, match=r"policy.factors names X; the adapter's factors are A, B"):
        run_shape(settings(plan={"policy": {"kind": "lowest_fraction", "factors": ["X"]}}))


def test_the_lowest_layer_that_trains() -> None:
    shape = run_shape(
        settings(method={"name": "lora", "layers_to_transform": [4, 5], "target_modules": ["query", "key"]})
    )
    assert shape is not None and (shape.lowest, shape.modules) == (4, 4)
