"""SmolLM2 with an adapter of every method in memory: the exports for servers, and what the adapter gives.

The adapters are random, of a visible size, and pruned to another rank in each module, to none in some. ``prepare``
leaves in a folder: ``base`` (a model folder), ``base.gguf`` (the same in float32), by method ``METHOD`` (the adapter),
``METHOD-lora`` and ``METHOD-gguf`` (its exports), and ``reference.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

PROMPT = "The three things to know about rivers are"
TOKENS, TOP, RANK, SIZE = 12, 10, 8, 0.08
_KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def prepare(folder: Path, methods: list[str]) -> None:
    """Writes base, adapters, exports and the reference."""
    from tapertune.interop import export_lora
    from tapertune.methods import METHODS
    from tapertune.train.gguf import find_gguf, smollm2_folder

    base = smollm2_folder()
    (folder / "base").symlink_to(base)
    dequantise(find_gguf(), folder / "base.gguf")
    found: dict[str, Any] = {}
    for method in methods:
        model, tokenizer = adapted(method, folder / "base")
        model.save_pretrained(folder / method)
        linear = METHODS[method].chain(METHODS[method].settings()).linear
        limit = None if linear else 1e-5
        for to in ("lora", "gguf"):
            export_lora(folder / method, folder / f"{method}-{to}", to=to, max_error=limit, base=folder / "base")
        found[method] = greedy(model, tokenizer)
        if "base" not in found:
            with model.disable_adapter():
                found["base"] = greedy(model, tokenizer)
        (folder / "reference.json").write_text(json.dumps(found))


def adapted(method: str, base: Path) -> tuple[Any, Any]:
    """The base with an adapter of the method, whose updates have SIZE times their weight's norm."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import tapertune
    from tapertune.methods import METHODS

    torch.manual_seed(0)
    row = METHODS[method]
    # a dense update has the rank of its module: narrow ones keep below what vLLM takes
    linear = row.chain(row.settings()).linear
    kinds = _KINDS if linear else ["k_proj", "v_proj"]
    values = {row.rank: RANK, "target_modules": kinds, "task_type": "CAUSAL_LM", "init_weights": False}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, tapertune.make_config(method, **values)).eval()
    prune(model, method, RANK, SIZE)
    return model, AutoTokenizer.from_pretrained(base)


@torch.no_grad()
def prune(model: Any, method: str, rank: int, size: float) -> None:
    """Closes another number of each module's components, all in some, and gives what is left ``size`` times the norm of
    the module's weight."""
    from tapertune.host import ChainLayer
    from tapertune.methods import METHODS

    row = METHODS[method]
    chain = row.chain(row.settings())
    gate = next((f.name for f in chain if f.symbols == (row.rank,)), chain.names[0])
    last = [factor.name for factor in chain if not getattr(factor, "shared", False)][-1]
    layers = [module for module in model.modules() if isinstance(module, ChainLayer)]
    for i, layer in enumerate(layers):
        layer.factor("default", gate)[: i % (rank + 1)] = 0.0
        for _ in range(1 if chain.linear else 4):  # a map of the product is not in proportion to a factor
            norm = layer.get_delta_weight("default").norm()
            if norm:
                layer.factor("default", last).mul_(size * layer.get_base_layer().weight.norm() / norm)


@torch.no_grad()
def greedy(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Prompt, the tokens that follow it by the largest probability, and the largest log-probabilities at each."""
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    prompt, steps, cache = ids[0].tolist(), [], None
    for _ in range(TOKENS):
        output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache, top = output.past_key_values, output.logits[0, -1].double().log_softmax(-1).topk(TOP)
        steps.append([[int(i), float(p)] for i, p in zip(top.indices, top.values, strict=True)])
        ids = top.indices[None, :1]
    tokens = [step[0][0] for step in steps]
    return {"prompt": prompt, "tokens": tokens, "text": tokenizer.decode(tokens), "steps": steps}


def dequantise(source: Path, target: Path) -> None:
    """The same GGUF file in float32: what transformers computes with when it reads it."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    from tapertune.methods import METHODS

    prepare(Path(sys.argv[1]), list(METHODS))
