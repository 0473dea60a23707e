"""Base models that bitsandbytes quantises while they are loaded."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from ..errors import TapertuneError
from ..runfile.blocks import QuantizationBlock


def quantization_config(block: QuantizationBlock, dtype: str, auto: Any, config: Any) -> BitsAndBytesConfig:
    """The block as transformers wants it.

    Args:
        block: of the run file.
        dtype: of the weights that are not quantised.
        auto: the class that makes the model.
        config: the model's.

    Raises:
        TapertuneError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise TapertuneError("quantization needs bitsandbytes, which is not installed: pip install bitsandbytes")
    whole = _outside_the_body(auto, config)
    if block.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=block.type,
        bnb_4bit_use_double_quant=block.double,
        bnb_4bit_compute_dtype=getattr(torch, block.compute_dtype or dtype),
        llm_int8_skip_modules=whole,
    )


def _outside_the_body(auto: Any, config: Any) -> list[str]:
    """Modules beside the base model, and a pooler in it: where they start at random, they train whole."""
    with torch.device("meta"):
        model = auto.from_config(config)
    beside = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    return beside + [name for name, _ in model.named_modules() if name.rpartition(".")[2] == "pooler"]
