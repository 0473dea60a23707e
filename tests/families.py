"""Real models of each family that people adapt, at toy sizes, with inputs and with targets of every kind they have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_HEADS = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
_SIZES = {"vocab_size": 40, "hidden_size": 16, **_HEADS}
_IDS = torch.arange(2, 14).view(2, 6)


@dataclass(frozen=True)
class Family:
    """A model and what of it is adapted.

    Attributes:
        build: makes the model, with labels for a loss.
        inputs: of a training pass.
        targets: a regular expression of the modules to adapt.
        kinds: of layers that it names.
    """

    build: Callable[[], Any]
    inputs: dict[str, Tensor]
    targets: str
    kinds: frozenset[str]

    def model(self) -> Any:
        """The model, always the same."""
        torch.manual_seed(0)
        return self.build()


def _pixels(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def _resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    return ResNetForImageClassification(ResNetConfig(**sizes, num_labels=2))


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(hidden_size=16, **_HEADS, image_size=8, patch_size=4, num_labels=2))


def _whisper() -> nn.Module:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sides = {f"{side}_{name}": n for side in ("encoder", "decoder")
             for name, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))}  # fmt: skip
    own = {"num_mel_bins": 8, "max_source_positions": 6, "max_target_positions": 16, "decoder_start_token_id": 1}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return WhisperForConditionalGeneration(WhisperConfig(vocab_size=40, d_model=16, **sides, **own, **tokens))


def _t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0, dropout_rate=0.0))


def _deberta() -> nn.Module:
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    own = {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True,
           "pos_att_type": "p2c|c2p", "position_biased_input": False, "type_vocab_size": 0,
           "conv_kernel_size": 3, "conv_groups": 2, "conv_act": "gelu"}  # fmt: skip
    return DebertaV2ForSequenceClassification(DebertaV2Config(**_SIZES, **own))


def _modernbert() -> nn.Module:
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    return ModernBertForSequenceClassification(ModernBertConfig(**_SIZES, **tokens, local_attention=4))


def _mamba() -> nn.Module:
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, state_size=4))


def _llava() -> nn.Module:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(hidden_size=16, **_HEADS, image_size=8, patch_size=4, projection_dim=16)
    text = LlamaConfig(**_SIZES)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=39, image_seq_length=4)
    config.vision_feature_layer = -1
    return LlavaForConditionalGeneration(config)


_LABELS = torch.tensor([0, 1])
_WITH_IMAGE = torch.cat([torch.full((2, 4), 39), _IDS], 1)
_AUDIO = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(1))

FAMILIES: dict[str, Family] = {
    "resnet": Family(
        _resnet, {"pixel_values": _pixels(16), "labels": _LABELS}, r".*\.convolution", frozenset(["Conv2d"])
    ),
    "vit": Family(
        _vit,
        {"pixel_values": _pixels(8), "labels": _LABELS},
        r".*(q_proj|v_proj|query|value|patch_embeddings\.projection)",
        frozenset(["Conv2d", "Linear"]),
    ),
    "whisper": Family(
        _whisper,
        {"input_features": _AUDIO, "labels": _IDS},
        r".*(conv[12]|q_proj|v_proj|embed_tokens)",
        frozenset(["Conv1d", "Embedding", "Linear"]),
    ),
    "t5": Family(
        _t5,
        {"input_ids": _IDS, "labels": _IDS},
        r".*\.(q|v|wi|lm_head)|lm_head|shared",
        frozenset(["Embedding", "Linear"]),
    ),
    "deberta-v3": Family(
        _deberta,
        {"input_ids": _IDS, "labels": _LABELS},
        r".*(query_proj|value_proj|conv\.conv|word_embeddings)",
        frozenset(["Conv1d", "Embedding", "Linear"]),
    ),
    "modernbert": Family(
        _modernbert,
        {"input_ids": _IDS, "attention_mask": torch.ones_like(_IDS), "labels": _LABELS},
        r".*(Wqkv|Wo|Wi|tok_embeddings)",
        frozenset(["Embedding", "Linear"]),
    ),
    "mamba": Family(
        _mamba,
        {"input_ids": _IDS, "labels": _IDS},
        r".*(in_proj|x_proj|embeddings)",
        frozenset(["Embedding", "Linear"]),
    ),
    "llava": Family(
        _llava,
        {"input_ids": _WITH_IMAGE, "pixel_values": _pixels(8), "labels": _WITH_IMAGE},
        r".*(q_proj|v_proj|patch_embedding|embed_tokens|linear_1)",
        frozenset(["Conv2d", "Embedding", "Linear"]),
    ),
}
