"""The models that are measured: made from configs with random weights, offline, but for the one that is a package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from ..errors import unknown
from ..train.models import find_model
from .setting import Setting

_ENCODER = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
_DECODER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_VOCABULARY = 8192  # embeddings are look-ups: a smaller table measures the same step in less memory


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """A row of ``MODELS``.

    Attributes:
        what: the model in a few words.
        make: makes it; the weights' values do not matter.
        targets: name endings of the linear layers that are adapted: all of the body's.
    """

    what: str
    make: Callable[[], Any]
    targets: tuple[str, ...]


def _bert(layers: int, hidden: int) -> Callable[[], Any]:
    sizes: dict[str, Any] = {
        "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": hidden // 64,
        "intermediate_size": 4 * hidden, "vocab_size": _VOCABULARY, "num_labels": 2, **_NO_DROPOUT,
    }  # fmt: skip

    def make() -> Any:
        return transformers.BertForSequenceClassification(transformers.BertConfig(**sizes))

    return make


def _llama(layers: int, hidden: int, inner: int, heads: int, kv_heads: int) -> Callable[[], Any]:
    sizes: dict[str, Any] = {
        "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inner, "vocab_size": _VOCABULARY,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "num_labels": 2, "pad_token_id": 0,
    }  # fmt: skip

    def make() -> Any:
        return transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**sizes))

    return make


def _qwen2(layers: int, hidden: int, inner: int, heads: int, kv_heads: int) -> Callable[[], Any]:
    sizes: dict[str, Any] = {
        "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inner, "vocab_size": _VOCABULARY,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "num_labels": 2, "pad_token_id": 0,
    }  # fmt: skip

    def make() -> Any:
        return transformers.Qwen2ForSequenceClassification(transformers.Qwen2Config(**sizes))

    return make


def _minilm() -> Any:
    auto: Any = transformers.AutoModelForSequenceClassification
    return auto.from_pretrained(find_model("minilm"), num_labels=2, dtype=torch.float32, **_NO_DROPOUT)


def _encoder(what: str, make: Callable[[], Any]) -> ModelRow:
    return ModelRow(what=what, make=make, targets=_ENCODER)


def _decoder(what: str, make: Callable[[], Any]) -> ModelRow:
    return ModelRow(what=what, make=make, targets=_DECODER)


MODELS: dict[str, ModelRow] = {
    "bert-6x384": _encoder("BERT, 6 layers of 384", _bert(6, 384)),
    "bert-12x768": _encoder("BERT, 12 layers of 768", _bert(12, 768)),
    "llama-8x1024": _decoder("Llama, 8 layers of 1024", _llama(8, 1024, 2816, 16, 16)),
    "minilm": _encoder("MiniLM, pretrained, 6 layers of 384", _minilm),
    "smollm2": _decoder("SmolLM2-135M's shapes, 30 layers of 576", _llama(30, 576, 1536, 9, 3)),
    "llama-1b": _decoder("Llama of a billion parameters, 16 layers of 2048", _llama(16, 2048, 8192, 32, 8)),
    "llama-3b": _decoder("Llama-3.2-3B's shapes, 28 layers of 3072", _llama(28, 3072, 8192, 24, 8)),
    "qwen2.5-0.5b": _decoder("Qwen2.5-0.5B's shapes, 24 layers of 896", _qwen2(24, 896, 4864, 14, 2)),
    "llama-1x64": _decoder("Llama, 1 layer of 64, for tests", _llama(1, 64, 128, 2, 1)),
    "bert-2x128": _encoder("BERT, 2 layers of 128, for tests", _bert(2, 128)),
    "bert-2x384": _encoder("BERT, 2 layers of 384, for the regression check", _bert(2, 384)),
    "llama-32x1024": _decoder("Llama, 32 layers of 1024, for the controller's growth", _llama(32, 1024, 2816, 16, 16)),
}


def model_row(name: str) -> ModelRow:
    """
    Raises:
        TapertuneError: no such model; the nearest name is suggested.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]


@dataclass(frozen=True, kw_only=True)
class Base:
    """A frozen model and what it is fed.

    Attributes:
        model: in training mode, nothing of it trains; its input embeddings require a gradient.
        batch: keyword arguments of its forward.
        targets: name endings of the layers that are adapted.
    """

    model: Any
    batch: dict[str, Tensor]
    targets: tuple[str, ...]

    def target_names(self) -> list[str]:
        """Paths of the layers that are adapted."""
        names = [name for name, module in self.model.named_modules() if isinstance(module, nn.Linear)]
        return [name for name in names if name.endswith(tuple(f".{ending}" for ending in self.targets))]

    def small_batch(self, rows: int = 2, length: int = 16) -> dict[str, Tensor]:
        """The first tokens of the first rows, for what has to be set up by training steps."""
        return {k: v[:rows, :length] if v.dim() == 2 else v[:rows] for k, v in self.batch.items()}


def make_base(name: str, setting: Setting) -> Base:
    """The model on its device and its batch, both the same whenever they are made.

    Raises:
        TapertuneError: no such model, or one whose package is not installed.
    """
    row = model_row(name)
    torch.manual_seed(0)
    with torch.device(setting.device):  # where drawing billions of numbers takes no time
        model = row.make()
    model.requires_grad_(False)
    model.to(device=setting.device, dtype=setting.torch_dtype)
    model.get_input_embeddings().register_forward_hook(_require_grad)
    return Base(model=model.train(), batch=_batch(model, setting), targets=row.targets)


def _require_grad(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.requires_grad_(True)


def _batch(model: Any, setting: Setting) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    shape = (setting.batch, setting.length)
    batch = {
        "input_ids": torch.randint(5, model.config.vocab_size, shape, generator=random),
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "labels": torch.randint(0, 2, shape[:1], generator=random),
    }
    return {name: tensor.to(setting.device) for name, tensor in batch.items()}
