"""A GGUF file with a LoRA adapter, as llama.cpp loads it (``--lora``), written and read by the package ``gguf``.

A tensor ``blk.N.attn_q.weight`` of the base has two here: ``.lora_a`` (r, d_in) and ``.lora_b`` (d_out, r). llama.cpp
scales their product by ``adapter.lora.alpha`` over that tensor's own rank. Where a head's rotary pairs are neighbours
in its layout and halves of the head in transformers', the rows of ``lora_b`` for query and key are in its order.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import torch

from ..errors import TapertuneError, unknown
from .contents import Contents
from .servers import GENERATING, GGUF_FILE, listing
from .truncation import Pair

# transformers' model type: llama.cpp's architecture, and whether it has its own order of query and key rows
_ARCHITECTURES = {
    "llama": ("llama", True), "mistral": ("llama", True), "smollm3": ("smollm3", True),
    "qwen2": ("qwen2", False), "qwen3": ("qwen3", False),
    "gemma": ("gemma", False), "gemma2": ("gemma2", False), "gemma3_text": ("gemma3", False),
}  # fmt: skip
_INSTALL = "a GGUF file needs the package gguf: pip install 'tapertune[gguf]'"


def check_gguf(contents: Contents) -> None:
    """Raises TapertuneError where llama.cpp has no such adapters, or not of these modules."""
    _package()
    shapes = contents.shapes
    kind = getattr(shapes.model_class, "__name__", None) if shapes is not None else None
    if shapes is None or shapes.config is None:
        raise TapertuneError("a GGUF file needs the base model's config: name it (--base)")
    model_type = _text_config(contents).model_type
    if kind not in GENERATING:
        raise TapertuneError(
            f"llama.cpp takes LoRA adapters of decoders that generate text, and this is of a {model_type} model"
            f"{f' for {kind}' if kind else ' within another'}: serve the merged model (--to merged)"
        )
    if model_type not in _ARCHITECTURES:
        raise unknown("model type for a GGUF adapter", model_type, _ARCHITECTURES)
    other = contents.unlike_linear
    if other is not None:
        raise TapertuneError(
            f"a GGUF adapter changes linear layers, and {other[0]} is {other[1]}: write a whole model (--to merged)"
        )
    if contents.saved:
        raise TapertuneError(
            f"a GGUF adapter holds no weights that were trained whole ({listing(contents.saved)}): write a base with"
            " them in it beside it (--with-base), or a whole model (--to merged)"
        )
    names = _names(contents)
    if "output.weight" in names.values() and _text_config(contents).tie_word_embeddings:
        raise TapertuneError(
            "the adapter changes the output head, which is the embedding in llama.cpp's model: serve the merged model"
            " (--to merged)"
        )


def write_gguf(folder: Path, contents: Contents) -> None:
    """Writes the file. Where ranks differ, the scaling is evened out in ``lora_b``."""
    gguf = _package()
    ranks = contents.ranks
    alpha = max(ranks.values())
    writer = gguf.GGUFWriter(folder / GGUF_FILE, _ARCHITECTURES[_text_config(contents).model_type][0])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for module, name in _names(contents).items():
        down, up = contents.pairs[module]
        order = _row_order(contents, module, up.shape[0])
        scaled = up * (ranks[module] / alpha)
        writer.add_tensor(f"{name}.lora_a", down.contiguous().numpy())
        writer.add_tensor(f"{name}.lora_b", (scaled if order is None else scaled[order]).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(folder: Path, contents: Contents) -> dict[str, Pair]:
    """The file's updates by module, as the base in transformers has them."""
    gguf = _package()
    reader = gguf.GGUFReader(folder / GGUF_FILE)
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    alpha = float(reader.get_field(gguf.Keys.Adapter.LORA_ALPHA).contents())
    pairs: dict[str, Pair] = {}
    for module, name in _names(contents).items():
        down, up = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"] * (alpha / tensors[f"{name}.lora_a"].shape[0])
        order = _row_order(contents, module, up.shape[0])
        if order is not None:
            rows = torch.empty_like(up)
            rows[order] = up
            up = rows
        pairs[module] = down, up
    return pairs


def _names(contents: Contents) -> dict[str, str]:
    """The names of the base's tensors by module.

    Raises:
        TapertuneError: llama.cpp's model has no tensor for a module.
    """
    gguf, config = _package(), _text_config(contents)
    architecture = _ARCHITECTURES[config.model_type][0]
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    names: dict[str, str] = {}
    for module in contents.pairs:
        path = re.sub(r"^(model\.)?language_model\.(model\.)?(?=layers\.)", "model.", module)
        name = table.get_name(path)
        if name is None:
            raise TapertuneError(f"llama.cpp's {architecture} has no tensor for the adapted module {module!r}")
        names[module] = f"{name}.weight"
    return names


def _row_order(contents: Contents, module: str, rows: int) -> torch.Tensor | None:
    """Which of transformers' rows comes at each place of llama.cpp's; None where the order is the same."""
    config = _text_config(contents)
    last = module.rpartition(".")[2]
    if not _ARCHITECTURES[config.model_type][1] or last not in ("q_proj", "k_proj"):
        return None
    heads = config.num_attention_heads
    if last == "k_proj":
        heads = getattr(config, "num_key_value_heads", None) or heads
    return torch.arange(rows).view(heads, 2, -1).transpose(1, 2).reshape(-1)


def _text_config(contents: Contents) -> Any:
    assert contents.shapes is not None and contents.shapes.config is not None, "checked before anything is written"
    return contents.shapes.config.get_text_config()


def _package() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise TapertuneError(_INSTALL) from error
