"""Decoders of a few thousand weights as GGUF files, for llama.cpp, and what adapters do to them.

    python tiny_models.py FOLDER

writes for each family ``FAMILY.gguf``, and for each case ``FAMILY-METHOD-gguf`` and the reference
``FAMILY-METHOD.json``; ``python tiny_models.py serve FOLDER`` adds llama.cpp's answers and prints what they differ by.
That a base is written rightly shows in its own probabilities: the adapter's are compared beside them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

FAMILIES = {
    "Llama": "llama", "Mistral": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3", "Gemma": "gemma", "SmolLM3": "smollm3",
}  # fmt: skip
HEADS, KEY_HEADS, WIDTH, HEAD = 4, 2, 32, 8
PROMPT = [5, 70, 12, 33, 41, 8]
TOP = 10


def cases() -> list[tuple[str, str]]:
    """Every method on a Llama, and one on each family."""
    from tapertune.methods import METHODS

    return [("Llama", method) for method in METHODS] + [(family, "sora") for family in FAMILIES if family != "Llama"]


def prepare(folder: Path) -> None:
    """Writes bases, adapters and references."""
    from peft import get_peft_model
    from reference import prune

    import tapertune
    from tapertune.interop import export_lora
    from tapertune.methods import METHODS

    kinds = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    for family in FAMILIES:
        model = decoder(family)
        model.save_pretrained(folder / f"{family}-base")
        write_gguf(model, FAMILIES[family], folder / f"{family}.gguf")
    for family, method in cases():
        name, base, model = f"{family}-{method}", folder / f"{family}-base", decoder(family)
        found: dict[str, Any] = {"base": next_tokens(model)}
        torch.manual_seed(1)
        row = METHODS[method]
        values = {row.rank: 4, "target_modules": kinds, "task_type": "CAUSAL_LM", "init_weights": False}
        adapted = get_peft_model(model, tapertune.make_config(method, **values)).eval()
        prune(adapted, method, 4, size=0.3)
        found["adapter"] = next_tokens(adapted)
        adapted.save_pretrained(folder / name)
        limit = None if row.chain(row.settings()).linear else 1e-5
        export_lora(folder / name, folder / f"{name}-gguf", to="gguf", base=base, max_error=limit)
        (folder / f"{name}.json").write_text(json.dumps(found))


def decoder(family: str) -> Any:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(vocabulary()), hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS, head_dim=HEAD, max_position_embeddings=64,
        initializer_range=0.3, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


@torch.no_grad()
def next_tokens(model: Any) -> list[list[float]]:
    """The most probable tokens after the prompt, with their log-probabilities."""
    top = model(input_ids=torch.tensor([PROMPT])).logits[0, -1].double().log_softmax(-1).topk(TOP)
    return [[int(i), float(p)] for i, p in zip(top.indices, top.values, strict=True)]


def vocabulary() -> list[str]:
    """Special tokens, a token for each byte that is a character, and words."""
    return ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(128)), *(f"w{i}" for i in range(64))]


def write_gguf(model: Any, architecture: str, path: Path) -> None:
    """A model's weights and settings as llama.cpp's converter lays them out."""
    import gguf

    config = model.config
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokens = vocabulary()
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 128 + [gguf.TokenType.NORMAL] * (len(tokens) - 131)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        weight = tensor.clone()
        if architecture in ("llama", "smollm3") and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = HEADS if "q_proj" in name else KEY_HEADS
            weight = weight.view(heads, 2, HEAD // 2, -1).transpose(1, 2).reshape(weight.shape)
        if architecture == "gemma" and name.endswith("norm.weight"):
            weight = weight + 1
        module, _, kind = name.rpartition(".")
        writer.add_tensor(f"{names.get_name(module)}.{kind}", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(folder: Path) -> None:
    """Adds what llama.cpp gives to each family's reference."""
    import xllamacpp
    from run_llama_cpp import complete, load_adapter

    for family in FAMILIES:
        methods = [method for other, method in cases() if other == family]
        params = xllamacpp.CommonParams()
        params.model.path = str(folder / f"{family}.gguf")
        params.n_ctx, params.n_parallel, params.warmup = 64, 1, False
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.lora_adapters = [load_adapter(folder / f"{family}-{method}-gguf") for method in methods]
        server = xllamacpp.Server(params)
        for i, method in enumerate(methods):
            path = folder / f"{family}-{method}.json"
            found = json.loads(path.read_text())
            for name, scale in (("base", 0.0), ("adapter", 1.0)):
                scales = [scale * (i == j) for j in range(len(methods))]
                (step,) = complete(server, PROMPT, 1, 4 * TOP, scales)
                found[f"{name} served"] = [[top["id"], top["logprob"]] for top in step["top_logprobs"]]
            path.write_text(json.dumps(found))


def results(folder: Path) -> list[dict[str, Any]]:
    """A row for each family and method, and one for each base."""
    from importlib.metadata import version

    from comparison import moved

    rows: list[dict[str, Any]] = []
    for family, method in cases():
        found = json.loads((folder / f"{family}-{method}.json").read_text())
        for name in ("base", "adapter"):
            expected, served = (dict(map(tuple, found[key])) for key in (name, f"{name} served"))
            if name == "base" and any(row["model"] == f"tiny {family}" for row in rows):
                continue
            rows.append(
                {
                    "server": "llama.cpp", "version": f"xllamacpp {version('xllamacpp')}", "model": f"tiny {family}",
                    "method": method if name == "adapter" else "base",
                    "largest_difference": max(abs(served[i] - expected[i]) for i in expected),
                    "moved": moved(found[name], found["base"]),
                    "greedy_text_equal": next(iter(served)) == next(iter(expected)),
                }
            )  # fmt: skip
    return rows


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]))
        print(json.dumps(results(Path(sys.argv[2])), indent=2))
    else:
        prepare(Path(sys.argv[1]))
