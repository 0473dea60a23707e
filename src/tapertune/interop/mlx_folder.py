"""A folder that mlx-lm loads as a LoRA adapter (``--adapter-path``): ``adapters.safetensors`` beside a config.

Its layers compute ``x @ W.T + scale * (x @ lora_a) @ lora_b``, with ``lora_a`` (d_in, r) and ``lora_b`` (r, d_out). The
config says the rank and the scale of all, how many layers from the last one on are adapted, and which modules of a
layer, by their paths within it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import TapertuneError, bad_value
from ..files import read_json_object, write_json
from .contents import Contents
from .folder import CONFIG
from .servers import GENERATING, listing
from .tensors import read_safetensors
from .truncation import Pair

_WEIGHTS = "adapters.safetensors"
_LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+)$")


def check_mlx(contents: Contents) -> None:
    """Raises TapertuneError where mlx-lm's format cannot hold the adapter."""
    shapes = contents.shapes
    kind = getattr(shapes.model_class, "__name__", None) if shapes is not None else None
    if shapes is None or shapes.config is None:
        raise TapertuneError("an MLX adapter needs the base model's config: name it (--base)")
    if contents.rank is None:
        raise bad_value("ragged", True, "False for an MLX adapter, whose modules have one rank")
    merged = "write a whole model (--to merged)"
    if kind not in GENERATING:
        raise TapertuneError(f"mlx-lm takes adapters of models that generate text, and this is of another: {merged}")
    other = contents.unlike_linear
    if other is not None:
        raise TapertuneError(
            f"an MLX adapter changes linear layers, and {other[0]} is {other[1]}: write a whole model (--to merged)"
        )
    if contents.saved:
        raise TapertuneError(
            f"an MLX adapter holds no weights that were trained whole ({listing(contents.saved)}): write a base with"
            f" them in it beside it (--with-base), or {merged}"
        )
    tied = shapes.config.get_text_config().tie_word_embeddings
    for module in contents.pairs:
        if _LAYER.match(module) is None and (module != "lm_head" or tied):
            reason = "is the embedding there" if module == "lm_head" else "is not where mlx-lm's models have layers"
            raise TapertuneError(f"the adapted module {module!r} {reason} (model.layers.N.*): {merged}")


def write_mlx(folder: Path, contents: Contents) -> None:
    """Writes config and weights."""
    from safetensors.torch import save_file

    assert contents.rank is not None and contents.shapes is not None, "checked before anything is written"
    state = {}
    for module, (down, up) in contents.pairs.items():
        state[f"{module}.lora_a"], state[f"{module}.lora_b"] = down.T.contiguous(), up.T.contiguous()
    save_file(state, folder / _WEIGHTS, {"format": "mlx"})
    keys = {found[2] if (found := _LAYER.match(module)) is not None else module for module in contents.pairs}
    parameters = {"rank": contents.rank, "scale": 1.0, "dropout": 0.0, "keys": sorted(keys)}
    config: dict[str, Any] = {
        "fine_tune_type": "lora",
        "model": contents.base,
        "num_layers": contents.shapes.config.get_text_config().num_hidden_layers,
        "lora_parameters": parameters,
    }
    write_json(folder / CONFIG, config)


def read_mlx(folder: Path) -> dict[str, Pair]:
    """The folder's updates by module."""
    state = read_safetensors(folder / _WEIGHTS)
    scale = read_json_object(folder / CONFIG)["lora_parameters"]["scale"]
    modules = [name.removesuffix(".lora_a") for name in state if name.endswith(".lora_a")]
    return {m: (state[f"{m}.lora_a"].T, state[f"{m}.lora_b"].T * scale) for m in modules}
