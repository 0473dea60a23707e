"""Small models whose experts are 3D parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

SIZES: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 24}
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]


def mixtral(**changes: Any) -> nn.Module:
    """Experts stored (d_out, d_in)."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**{**SIZES, **HEADS, "num_local_experts": 4, **changes}))


def qwen3_moe(**changes: Any) -> nn.Module:
    """Other names on disk."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    sizes = {"moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**{**SIZES, **HEADS, **sizes, **changes}))


def gpt_oss(**changes: Any) -> nn.Module:
    """Experts stored (d_in, d_out), with biases, gate and up taking turns."""
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(0)
    sizes = {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}
    model = GptOssForCausalLM(GptOssConfig(**{**SIZES, **HEADS, **sizes, **changes}))
    for parameter in model.parameters():  # some of which transformers leaves at zero
        nn.init.normal_(parameter, std=0.1)
    return model


def tokens(rows: int = 2, length: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Token ids, which are the labels too."""
    ids = torch.randint(0, 50, (rows, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids}
