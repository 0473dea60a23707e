"""The authors' models as shapes without weights: what a run file would adapt and train, known without a download.

A model is built from its published sizes on the meta device and adapted there, as a run would adapt it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from ..adapt.decision import PolicyScope
from ..adapt.plan import Plan
from ..host import adapt_model, adapter_parameters
from ..kernels import Adapted
from ..runfile.head_dropout import check_head_dropout
from ..runfile.settings import BASELINES, RunSettings, adapter_config
from ..tasks.kinds import get_kind
from .adapted_layers import adapted_layers
from .weights import LAYERS, weights

_LLAMA_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 32000,
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "microsoft/deberta-v3-base": {
        "model_type": "deberta-v2", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "vocab_size": 128100, "type_vocab_size": 0, "relative_attention": True,
        "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": "p2c|c2p",
        "position_biased_input": False, "pooler_hidden_size": 768, "pooler_dropout": 0, "pooler_hidden_act": "gelu",
    },
    "FacebookAI/roberta-base": {
        "model_type": "roberta", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1,
    },
    "FacebookAI/roberta-large": {
        "model_type": "roberta", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1,
    },
    "facebook/bart-large": {
        "model_type": "bart", "d_model": 1024, "encoder_layers": 12, "decoder_layers": 12, "encoder_ffn_dim": 4096,
        "decoder_ffn_dim": 4096, "encoder_attention_heads": 16, "decoder_attention_heads": 16, "vocab_size": 50265,
    },
    "yahma/llama-7b-hf": _LLAMA_7B,
    "meta-llama/Llama-2-7b-hf": _LLAMA_7B,
    "minilm": {
        "model_type": "bert", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6,
        "num_attention_heads": 12, "vocab_size": 30522,
    },
    "meta-llama/Llama-3.1-8B": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
    },
    "Qwen/Qwen3-0.6B": {
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "max_position_embeddings": 40960, "tie_word_embeddings": True,
    },
    "smollm2": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Part:
    """A layer of the base model.

    Attributes:
        name: its path.
        weights: elements of its matrix.
        head: whether it lies outside the base model and trains.
        adapter: its adapter on a base in float32, or None.
    """

    name: str
    weights: int
    head: bool
    adapter: Adapted | None = None


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a run trains in a model of known sizes, before anything freezes.

    Attributes:
        start: parameters that train outside the head: the adapter's, or for ``full`` the base model's.
        head: parameters of the head that trains.
        base: parameters of the model, the head's included.
        parts: the base model's layers that have a matrix, and its embeddings.
        modules: how many modules are adapted.
        vectors: parameters of vectors among those that train in the adapter; freezing leaves them alone.
        held: parameters of the adapter, those that do not train included; shared ones once.
        stakes: for each plan, the parameters that its policy scores, and those that it can freeze or remove.
        lowest: index of the lowest layer in which something trains.
        plans: what adapts during training.
    """

    start: int
    head: int
    base: int
    parts: tuple[Part, ...]
    modules: int = 0
    vectors: int = 0
    held: int = 0
    stakes: tuple[tuple[int, int], ...] = ()
    lowest: int = 0
    plans: tuple[Plan, ...] = ()


def model_config(name: str) -> Any:
    """The config of a model in the table, or None.

    >>> model_config("minilm").hidden_size
    384
    """
    from transformers import AutoConfig

    if name not in CONFIGS:
        return None
    values = dict(CONFIGS[name])
    return AutoConfig.for_model(values.pop("model_type"), **values)


def run_shape(settings: RunSettings) -> Shape | None:
    """What a run trains, or None where the model's sizes are not in the table.

    Raises:
        TapertuneError: the adapter or its plan does not fit the model.
    """
    if settings.model not in CONFIGS:
        return None
    task = settings.task.declaration()
    labels = json.dumps(get_kind(task.kind).config(task), sort_keys=True)
    # recipes for several tasks share what the method does to the model
    own = [settings.method.model_dump(), settings.plan, settings.head.dropout]
    key = (settings.model, task.kind, labels, json.dumps(own, sort_keys=True))
    if key not in _KNOWN:
        _KNOWN[key] = shape_of(settings, base_model(settings.model, task.kind, labels), task.kind)
    return _KNOWN[key]


_KNOWN: dict[tuple[str, ...], Shape] = {}


@cache
def base_model(name: str, kind: str, labels: str = "{}") -> Any:
    """A model of the table for a kind of task, without storage; ``labels``: what the kind adds to its config, JSON."""
    config = model_config(name)
    for key, value in json.loads(labels).items():
        # JSON has made the numbers of classes text
        setattr(config, key, {int(k): v for k, v in value.items()} if key == "id2label" else value)
    return base_of(config, kind)


def base_of(config: Any, kind: str, dtype: torch.dtype = torch.float32, device: str = "meta") -> Any:
    """The model of a config for a kind of task; without another device, it has no storage."""
    import transformers

    with torch.device(device):
        return getattr(transformers, get_kind(kind).auto_class).from_config(config, dtype=dtype)


def shape_of(settings: RunSettings, base: Any, kind: str) -> Shape:
    """What a run trains in a base model for a kind of task; the model is left as it is.

    Raises:
        TapertuneError: the adapter or its plan does not fit the model.
    """
    if settings.head.dropout is not None:
        check_head_dropout(base)
    head = head_modules(base, kind)
    inside = {n: p.numel() for n, p in base.named_parameters() if n.startswith(tuple(f"{module}." for module in head))}
    total = sum(p.numel() for p in base.parameters())
    shape = Shape(
        start=total - sum(inside.values()) if settings.method.name == "full" else 0,
        head=sum(inside.values()),
        base=total,
        parts=tuple(
            Part(name=name, weights=weights(module), head=f"{name}.weight" in inside)
            for name, module in base.named_modules()
            if isinstance(module, (*LAYERS, nn.Embedding))
        ),
    )
    return shape if settings.method.name in BASELINES else _adapted(settings, base, head, shape)


def _adapted(settings: RunSettings, base: Any, head: list[str], shape: Shape) -> Shape:
    model, plans = with_adapter(settings, copy.deepcopy(base), head)
    handles = adapter_parameters(model)
    training = [h for h in handles if h.parameter.requires_grad]
    stakes = []
    for plan in plans:
        scope = plan.policy.scope({h.name: h for h in handles}, {h.name for h in training})
        plan.policy.check(scope)
        stakes.append(_stakes(scope, {h.name: h.parameter.numel() for h in handles}))
    layers = {module: layer for group in adapted_layers(model.train()) for module, layer in group.items()}
    return dataclasses.replace(
        shape,
        modules=len(layers),
        start=sum(h.parameter.numel() for h in training),
        vectors=sum(h.parameter.numel() for h in training if not h.matrix),
        held=sum({id(h.parameter): h.parameter.numel() for h in handles}.values()),
        stakes=tuple(stakes),
        lowest=min((h.layer for h in training if h.layer is not None), default=0),
        parts=tuple(dataclasses.replace(part, adapter=layers.get(part.name)) for part in shape.parts),
        plans=plans,
    )


def with_adapter(settings: RunSettings, base: Any, head: list[str]) -> tuple[Any, tuple[Plan, ...]]:
    """A base model with the run's adapter in it, and the plans that the adapter follows."""
    config = adapter_config(settings, head or None)
    with warnings.catch_warnings():
        # peft reads a property of transformers' models that transformers has deprecated
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        with torch.device("meta"):  # factors are not drawn either
            return adapt_model(base, config), tuple(config.resolved_plans())


def _stakes(scope: PolicyScope, sizes: dict[str, int]) -> tuple[int, int]:
    scored = sum(sizes[name] for name in scope.scored)
    grouped = {name for group in scope.freeze_groups for name in group}
    # what has rank components can lose them; what is scored, or frozen by groups, can freeze
    parts = {name for group in scope.groups for name, _ in group.parts}
    return scored, sum(sizes[name] for name in parts or {*scope.scored, *grouped})


def head_modules(base: Any, kind: str) -> list[str]:
    """The modules beside the base model; in these models they are what starts at random."""
    if not get_kind(kind).trains_head:
        return []
    beside = {name: module for name, module in base.named_children() if name != base.base_model_prefix}
    return [name for name, module in beside.items() if next(module.parameters(), None) is not None]
