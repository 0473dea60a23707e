"""What llama.cpp gives for each method's GGUF adapter: ``python run_llama_cpp.py FOLDER``, see ``reference``."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    import xllamacpp

    reference = json.loads((folder / "reference.json").read_text())
    methods = [name for name in reference if name != "base"]
    params = xllamacpp.CommonParams()
    params.model.path = str(folder / "base.gguf")
    params.n_ctx, params.n_parallel, params.warmup = 256, 1, False
    params.cpuparams.n_threads = os.cpu_count() or 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.lora_adapters = [load_adapter(folder / f"{name}-gguf") for name in methods]
    server = xllamacpp.Server(params)
    found: dict[str, Any] = {"server": "llama.cpp", "version": f"xllamacpp {version('xllamacpp')}"}
    for name, row in reference.items():
        scales = [float(other == name) for other in methods]
        steps = complete(server, row["prompt"], len(row["tokens"]), 2 * len(row["steps"][0]), scales)
        found[name] = {
            "tokens": [step["id"] for step in steps],
            "steps": [{str(top["id"]): top["logprob"] for top in step["top_logprobs"]} for step in steps],
        }
    (folder / "llama.cpp.json").write_text(json.dumps(found))


def complete(server: Any, prompt: list[int], tokens: int, top: int, scales: list[float]) -> list[dict[str, Any]]:
    """The tokens of largest probability after a prompt, each with the ``top`` most probable at its place.

    Args:
        server: of xllamacpp.
        prompt: token ids.
        tokens: how many to generate.
        top: how many log-probabilities to give at each.
        scales: of the server's adapters, in their order.
    """
    wanted = {
        "prompt": prompt, "n_predict": tokens, "temperature": 0.0, "n_probs": top, "cache_prompt": False,
        "ignore_eos": True, "lora": [{"id": i, "scale": scale} for i, scale in enumerate(scales)],
    }  # fmt: skip
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.listening_address}/completion", json.dumps(wanted).encode(), headers)
    with urllib.request.urlopen(request, timeout=1800) as response:
        return json.load(response)["completion_probabilities"]


def load_adapter(folder: Path) -> Any:
    """The adapter of a GGUF export, as xllamacpp is given it."""
    import xllamacpp

    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = str(folder / "adapter.gguf"), 1.0
    return adapter


if __name__ == "__main__":
    main(Path(sys.argv[1]))
