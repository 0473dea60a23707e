"""What llama.cpp gives for each method's GGUF adapter: ``python run_llama_cpp.py FOLDER``, see ``reference``."""

from __future__ import annotations

import json
import os
import sys
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
    params.lora_adapters = [_adapter(xllamacpp, folder / f"{name}-gguf" / "adapter.gguf") for name in methods]
    server = xllamacpp.Server(params)
    found: dict[str, Any] = {"server": "llama.cpp", "version": f"xllamacpp {version('xllamacpp')}"}
    for name, row in reference.items():
        scales = [{"id": i, "scale": float(other == name)} for i, other in enumerate(methods)]
        answer = server.handle_completions(
            {
                "prompt": row["prompt"], "n_predict": len(row["tokens"]), "temperature": 0.0, "lora": scales,
                "n_probs": 2 * len(row["steps"][0]), "cache_prompt": False, "ignore_eos": True, "return_tokens": True,
            }
        )  # fmt: skip
        steps = answer["completion_probabilities"]
        found[name] = {
            "tokens": [step["id"] for step in steps],
            "steps": [{str(top["id"]): top["logprob"] for top in step["top_logprobs"]} for step in steps],
        }
    (folder / "llama.cpp.json").write_text(json.dumps(found))


def _adapter(xllamacpp: Any, path: Path) -> Any:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = str(path), 1.0
    return adapter


if __name__ == "__main__":
    main(Path(sys.argv[1]))
