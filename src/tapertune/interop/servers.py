"""What servers of LoRA adapters do with what they are given, as far as an export depends on it.

Ranks and scalings: vLLM and PEFT read them by module or need one bound. llama.cpp, and what stands on it, divides the
one ``lora_alpha`` by each tensor's own rank. SGLang stacks tensors, which must have one size.
"""

from __future__ import annotations

from ..errors import bad_value

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for ``--max-lora-rank``."""

RAGGED = (
    "a rank for each module: PEFT and vLLM read it right; llama.cpp, Ollama and TensorRT-LLM divide one lora_alpha by"
    " each tensor's own rank and so scale wrongly where ranks differ; SGLang, TGI and LoRAX fail where ranks differ or"
    " a layer lacks a module"
)

ADDED_TWICE = (
    "the installed PEFT adds the update of an nn.MultiheadAttention's output projection twice, so half of it is written"
)


def vllm_rank(rank: int) -> int:
    """The smallest of vLLM's ranks that is not below.

    Raises:
        TapertuneError: there is none.
    """
    larger = [allowed for allowed in VLLM_RANKS if allowed >= rank]
    if not larger:
        raise bad_value("rank", rank, f"at most {VLLM_RANKS[-1]} to be rounded up to one of vLLM's (--rank cuts it)")
    return larger[0]


def saved_beside_note(names: list[str]) -> str:
    """What becomes of modules that are saved whole."""
    listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return (
        f"trained whole and saved beside the update: {listed}. PEFT loads that; vLLM and llama.cpp refuse such an"
        " adapter, and SGLang, TGI and LoRAX leave these weights out: for them, serve what `tapertune merge` writes"
    )
