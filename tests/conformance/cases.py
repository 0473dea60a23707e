"""What PEFT's tests are pointed at: for each of their case lists, the rows that every method of tapertune gets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from tapertune.host import ChainConfig, config_class
from tapertune.methods import METHODS

Row: TypeAlias = Any

# Settings in place of a method's defaults, by kind of model. On both, PEFT's tests expect every factor to train.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    # three steps of training on inputs a few numbers wide, after which every factor must have moved by 1e-4
    "custom": {
        "aflora": {"projection_scope": "all", "d_initial": 0.3},
        "adalora": {"init_r": 4},
        "lora2": {"lora_alpha": 300},
        "loran": {"omega": 100},  # rounding grows by omega, and some tests compare two runs of one model
        "sora": {"lora_alpha": 4},
        "elora": {"r": 4},
    },
    # adapters of models 32 wide, converted to LoRA of rank 8 or 4
    "transformers": {
        "lora": {"r": 4, "lora_alpha": 8},
        "aflora": {"projection_scope": "all"},
        "adalora": {"init_r": 4},
        "elora": {"r": 4},
    },
}

# PEFT's tests learn faster for those of its own methods that have not moved after three steps. Four factors that start
# at 0.02 have not either, on so small a model, nor three, nor a projection that is drawn for as many inputs as there
# are tokens.
SLOW_STARTS: dict[tuple[str, str], dict[str, Any]] = {
    ("lora2", "EmbConv1D"): {"lora_alpha": 20000, "init_r": 4},
    ("adalora", "EmbConv1D"): {"lora_alpha": 2000, "init_r": 4},
    ("elora", "EmbConv1D"): {"d_initial": 10.0},
}

# PEFT's tests skip by these names what many of its methods cannot do (layers of type Conv1D, gradient checkpointing in
# DeBERTa) or one of them cannot (layers without a bias). Tapertune's can.
MODEL_NAMES = {
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": "tapertune/tiny-conv1d-decoder",
    "trl-internal-testing/tiny-random-LlamaForCausalLM": "tapertune/tiny-no-bias-decoder",
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": "tapertune/tiny-local-attention-decoder",
    "peft-internal-testing/tiny-random-DebertaModel": "tapertune/tiny-disentangled-encoder",
    "peft-internal-testing/tiny-random-DebertaV2Model": "tapertune/tiny-disentangled-encoder-v2",
}


@dataclass(frozen=True)
class Part:
    """One of PEFT's test files.

    Attributes:
        file: its name, without ``.py``.
        lists: names of its case lists, and the rows that a method puts in place of PEFT's.
        models: name of its list of models, or the models that its tests name themselves.
        inline: tests whose cases stand in the decorator: (test, parameter) and the rows for them.
    """

    file: str
    lists: dict[str, Callable[[str], list[Row]]]
    models: str | tuple[str, ...] = ()
    inline: dict[tuple[str, str], Callable[[str], list[Row]]] = dataclasses.field(default_factory=dict)


def settings(models: str, method: str) -> dict[str, Any]:
    return SETTINGS[models].get(method, {})


def custom(method: str) -> list[Row]:
    shapes: list[tuple[str, str, dict[str, Any]]] = [
        ("Vanilla MLP 1", "MLP", {"target_modules": "lin0"}),
        ("Vanilla MLP 2", "MLP", {"target_modules": ["lin0"]}),
        ("Vanilla MLP 3", "MLP", {"target_modules": ["lin1"]}),
        ("Vanilla MLP 4", "MLP", {"target_modules": ["lin0", "lin1"]}),
        ("Vanilla MLP 5", "MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
        ("Vanilla MLP 6", "MLP", {"target_modules": ["lin0"], "dropout": 0.1}),
        ("Embedding + transformers Conv1D 1", "EmbConv1D", {"target_modules": ["conv1d"]}),
        ("Conv2d 1", "Conv2d", {"target_modules": ["lin0"]}),
        ("Embedding + transformers Conv1D 2", "EmbConv1D", {"target_modules": ["emb"]}),
        ("Embedding + transformers Conv1D 3", "EmbConv1D", {"target_modules": ["emb", "conv1d"]}),
        (
            "Embedding + transformers Conv1D 1 trainable_tokens",
            "EmbConv1D",
            {"target_modules": ["conv1d"], "trainable_token_indices": {"emb": [0, 10]}},
        ),
        ("Conv1d", "Conv1d", {"target_modules": ["conv1d"]}),
        ("Conv2d 2", "Conv2d", {"target_modules": ["conv2d"]}),
        ("Conv2d 3", "Conv2d", {"target_modules": ["conv2d", "lin0"]}),
        ("Conv2d Groups", "Conv2dGroups", {"target_modules": ["conv2d"], METHODS[method].rank: 8}),
        ("Conv2d Groups2", "Conv2dGroups2", {"target_modules": ["conv2d"], METHODS[method].rank: 8}),
        ("Conv3d 1", "Conv3d", {"target_modules": ["conv3d"]}),
        ("Conv3d 2", "Conv3d", {"target_modules": ["conv3d", "lin0"]}),
        ("MHA 1", "MHA", {"target_modules": ["mha"]}),
        ("MHA 2", "MHA", {"target_modules": ["mha", "lin0"]}),
    ]
    title, row = METHODS[method].title, config_class(method)
    own = {name: {**kw, **SLOW_STARTS.get((method, model), {})} for name, model, kw in shapes}
    return [(f"{name} {title}", model, row, {**settings("custom", method), **own[name]}) for name, model, _ in shapes]


def multiple(method: str) -> list[Row]:
    row, cls = METHODS[method], config_class(method)
    base = {**settings("custom", method), "init_weights": False}
    tokens = (
        {**base, "target_modules": ["lin0"], "trainable_token_indices": {"emb": each}} for each in ([0, 1], [3, 4])
    )
    lin0, lin1 = ({**base, "target_modules": [name]} for name in ("lin0", "lin1"))
    return [
        (f"{row.title} Same", row.peft_name, cls, lin0, lin0),
        (f"{row.title} Different", row.peft_name, cls, lin0, lin1),
        (f"{row.title} Tokens", "lora+trainable_tokens", cls, *tokens),
    ]


@functools.cache
def _with_settings(method: str) -> type[ChainConfig]:
    """The method's config class with ``SETTINGS`` for defaults: some tests call it with target modules alone."""
    base, own = config_class(method), settings("custom", method)
    fields = [(name, Any, dataclasses.field(default=value)) for name, value in own.items()]
    cls = dataclasses.make_dataclass(base.__name__, fields, bases=(base,))
    cls.__module__, cls.__qualname__ = __name__, f"_{method}"
    globals()[cls.__qualname__] = cls  # where pickle looks for it
    return cls


def classes(method: str) -> list[Row]:
    return [_with_settings(method) if settings("custom", method) else config_class(method)]


def configs(method: str) -> list[Row]:
    return [config_class(method)(**settings("custom", method), target_modules=["lin0"], init_weights=False)]


def of_task(task: str) -> Callable[[str], list[Row]]:
    """Rows for the tests with transformers' models: default targets, and some dropout as for PEFT's LoRA."""

    def rows(method: str) -> list[Row]:
        own = {"task_type": task, "target_modules": None, "dropout": 0.05}
        return [(config_class(method), {**settings("transformers", method), **own})]

    return rows


def quantized(method: str) -> list[Row]:
    """Rows for the tests on quantised bases, which neither train nor convert: a method's defaults."""
    return [(config_class(method), {"target_modules": ["q_proj", "v_proj"]})]


PARTS: dict[str, Part] = {
    "custom": Part(
        "test_custom_models",
        {
            "TEST_CASES": custom,
            "ALL_PEFT_CONFIG_CLASSES": classes,
            "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES": multiple,
        },
        inline={
            ("test_multiple_adapters_mixed_modules_to_save", "config_cls"): classes,
            ("test_multiple_adapters_mixed_modules_to_save_order_switched", "config_cls"): classes,
            ("test_adapter_name_makes_no_difference", "config0"): configs,
        },
    ),
    "decoder": Part("test_decoder_models", {"ALL_CONFIGS": of_task("CAUSAL_LM")}, "PEFT_DECODER_MODELS_TO_TEST"),
    "encoder_decoder": Part(
        "test_encoder_decoder_models", {"ALL_CONFIGS": of_task("SEQ_2_SEQ_LM")}, "PEFT_ENCODER_DECODER_MODELS_TO_TEST"
    ),
    "feature": Part(
        "test_feature_extraction_models",
        {"ALL_CONFIGS": of_task("FEATURE_EXTRACTION")},
        "PEFT_FEATURE_EXTRACTION_MODELS_TO_TEST",
    ),
    "seqcls": Part("test_seq_classifier", {"ALL_CONFIGS": of_task("SEQ_CLS")}, "PEFT_SEQ_CLS_MODELS_TO_TEST"),
    "quantization": Part("test_quantization", {"TEST_CASES": quantized}, ("peft-internal-testing/opt-125m",)),
}
