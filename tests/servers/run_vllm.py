"""What vLLM gives for each method's LoRA folder: ``python run_vllm.py FOLDER``, see ``reference``."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def main(folder: Path) -> None:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    reference = json.loads((folder / "reference.json").read_text())
    ranks = [json.loads(path.read_text())["r"] for path in folder.glob("*-lora/adapter_config.json")]
    allowed = next(rank for rank in (8, 16, 32, 64, 128, 256, 320, 512) if rank >= max(ranks))
    model = LLM(
        str(folder / "base"), dtype="float32", enable_lora=True, max_lora_rank=allowed, max_model_len=256,
        enforce_eager=True, max_num_seqs=1, max_loras=1, max_logprobs=40,
    )  # fmt: skip
    found: dict[str, Any] = {"server": "vLLM", "version": f"vllm-cpu {version('vllm-cpu')}"}
    for i, (name, row) in enumerate(reference.items()):
        sampling = SamplingParams(
            temperature=0.0, max_tokens=len(row["tokens"]), logprobs=2 * len(row["steps"][0]), ignore_eos=True
        )
        adapter = None if name == "base" else LoRARequest(name, i + 1, str(folder / f"{name}-lora"))
        prompt = {"prompt_token_ids": row["prompt"]}
        output = model.generate(prompt, sampling, lora_request=adapter, use_tqdm=False)[0].outputs[0]
        found[name] = {
            "tokens": list(output.token_ids),
            "steps": [{str(token): top.logprob for token, top in step.items()} for step in output.logprobs],
        }
    (folder / "vllm.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
