"""What a module's path tells: layer, role, short label; and which modules an architecture's adapters take."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import TapertuneError, bad_value

_ATTENTION = re.compile(
    r"attn|attention|query|key|value|(^|[._])[qkvo]_(proj|lin)|(^|[._])out_(proj|lin)|qkv|(^|\.)[qkvo]$"
)
_FEED_FORWARD = re.compile(
    r"mlp|ffn|intermediate|feed_?forward|densereludense|fc\d|lin[12]|gate|up_proj|down_proj|h_to_4h"
)
_SHORT = {"attention": "attn", "intermediate": "inter", "output": "out"}

_BERT = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
_DEBERTA = ["query_proj", "key_proj", "value_proj", "in_proj", *_BERT[3:]]
_LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_BART = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
_T5 = ["q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"]
_GPT2 = ["c_attn", "c_proj", "c_fc"]
_NEOX = ["query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"]

TARGETS: dict[str, list[str]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "camembert"), _BERT),
    **dict.fromkeys(("deberta", "deberta-v2"), _DEBERTA),
    "distilbert": ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
    "albert": ["query", "key", "value", "attention.dense", "ffn", "ffn_output"],
    "mpnet": ["attn.q", "attn.k", "attn.v", "attn.o", "intermediate.dense", "output.dense"],
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text", "smollm3", "olmo", "olmo2",
         "cohere", "granite", "stablelm", "starcoder2_gated", "deepseek", "exaone4", "ministral"),
        _LLAMA,
    ),
    "vit": ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"],
    "phi": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    **dict.fromkeys(("bart", "mbart", "opt", "pegasus", "marian", "blenderbot", "m2m_100", "whisper"), _BART),
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5"), _T5),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), _GPT2),
    **dict.fromkeys(("gpt_neox", "bloom", "falcon"), _NEOX),
    "gptj": ["q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"],
    "gpt_neo": ["q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"],
}  # fmt: skip
# experts are parameters (see parameter_targets); what is here are attention, shared experts and dense layers
_DEEPSEEK = ["q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", *_LLAMA[3:]]
TARGETS |= {
    **dict.fromkeys(("mixtral", "gpt_oss"), _LLAMA[:4]),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe", "olmoe"), _LLAMA),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), _DEEPSEEK),
}
TARGETS["bloom"] = TARGETS["falcon"] = ["query_key_value", "self_attention.dense", "dense_h_to_4h", "dense_4h_to_h"]


ROOT = "base_model.model."
"""What PEFT puts before a module's path in the base model."""


def layer_path(module: str) -> str | None:
    """The path up to its first whole-number part.

    >>> layer_path("encoder.layer.3.output.dense"), layer_path("lm_head")
    ('encoder.layer.3', None)
    """
    parts = module.split(".")
    return next((".".join(parts[: i + 1]) for i, part in enumerate(parts) if part.isdigit()), None)


def layer_index(module: str) -> int | None:
    """The first whole-number part of a path.

    >>> layer_index("encoder.layer.3.output.dense"), layer_index("lm_head")
    (3, None)
    """
    path = layer_path(module)
    return None if path is None else int(path.rpartition(".")[2])


def top_layers(modules: Iterable[str], count: float | int) -> list[int]:
    """The numbers of the topmost layers of modules, of each stack where there are several.

    Args:
        modules: their paths.
        count: a share of the layers, or a whole number of them.

    Raises:
        TapertuneError: the modules have no numbers, their stacks are of different heights, or so many layers are not
            there.

    >>> top_layers(["h.0.q", "h.1.q", "h.2.q", "h.3.q", "h.3.v"], 0.5)
    [2, 3]
    """
    stacks: dict[str, int] = {}
    for path in filter(None, map(layer_path, modules)):
        stack, _, number = path.rpartition(".")
        stacks[stack] = max(stacks.get(stack, 0), int(number) + 1)
    if not stacks:
        raise TapertuneError("train_layers needs numbered layers, such as 'encoder.layer.3.output.dense'; none has")
    heights = set(stacks.values())
    if len(heights) > 1:
        each = ", ".join(f"{stack} {height}" for stack, height in stacks.items())
        raise TapertuneError(f"train_layers needs stacks of as many layers each; here: {each}. Use layers_to_transform")
    height = heights.pop()
    top = max(1, int(count * height + 1e-9)) if isinstance(count, float) else count
    if top > height:
        raise bad_value("train_layers", count, f"at most the {height} layers that there are")
    return list(range(height - top, height))


def module_kind(module: str, d_in: int, d_out: int) -> str:
    """``attention`` or ``ffn``, from the path; where it does not tell, a layer that keeps the width counts as attention
    (the rule of AFLoRA's released code).

    >>> module_kind("encoder.layer.0.attention.output.dense", 768, 768), module_kind("layers.1.mlp.up_proj", 64, 256)
    ('attention', 'ffn')
    """
    path = _role(module).lower()
    if _ATTENTION.search(path):
        return "attention"
    if _FEED_FORWARD.search(path):
        return "ffn"
    return "attention" if d_in == d_out else "ffn"


def row_label(module: str, factor: str) -> str:
    """A short label of a module's role and a factor, equal across layers.

    >>> row_label("bert.encoder.layer.7.intermediate.dense", "A"), row_label("model.layers.2.mlp.down_proj", "B")
    ('inter.A', 'mlp.down.B')
    """
    parts = [_SHORT.get(part, part) for part in _role(module).split(".")]
    parts = [part.removesuffix("_proj") for part in parts if part not in ("dense", "self", "self_attn")] or ["dense"]
    return ".".join([*parts, factor])


def _role(module: str) -> str:
    """The path behind the layer's number; the last part where there is none."""
    path = layer_path(module)
    tail = module.rpartition(".")[2] if path is None else module[len(path) + 1 :]
    return tail or module
