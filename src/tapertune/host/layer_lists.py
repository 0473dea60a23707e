"""Where an architecture keeps its layers: the end of the path of the list, by model type."""

from __future__ import annotations

_DECODERS = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3", "olmo", "olmo2", "cohere",
    "granite", "stablelm", "exaone4", "ministral", "phi", "phi3", "gpt_neox", "vit",
)  # fmt: skip

LAYER_LISTS: dict[str, str] = {
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "electra", "camembert", "mpnet", "deberta", "deberta-v2"), "encoder.layer"
    ),
    "distilbert": "transformer.layer",
    **dict.fromkeys(_DECODERS, "layers"),
    **dict.fromkeys(("gpt2", "gpt_bigcode", "gpt_neo", "gptj", "bloom", "falcon"), "h"),
    "opt": "decoder.layers",
    **dict.fromkeys(("t5", "mt5", "umt5"), "encoder.block"),
    **dict.fromkeys(("bart", "mbart", "pegasus", "marian", "blenderbot", "m2m_100"), "encoder.layers"),
}
"""Of a model with two stacks, the encoder's: a decoder's layers read what the encoder makes."""
