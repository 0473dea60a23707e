"""``export``, ``import`` and ``merge``: what they print, and one clear line for what they cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import mlp, tiny_bert

import tapertune


def adapter(folder: Path, name: str, base: torch.nn.Module, **values: Any) -> Path:
    from peft import get_peft_model

    get_peft_model(base, tapertune.make_config(name, init_weights=False, **values)).save_pretrained(folder)
    return folder


def test_export(cli: Any, tmp_path: Path) -> None:
    source = adapter(tmp_path / "in", "aflora", tiny_bert(), r=3)
    done = cli("export", source, "--to", "lora", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "bert.encoder.layer.*.intermediate.dense" in done.out
    assert "aflora: 12 modules, lossless, largest relative error" in done.out
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_export_says_what_it_cut_filled_and_compared(cli: Any, tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path / "base")
    source = adapter(tmp_path / "in", "sora", tiny_bert(), r=4, target_modules=["query", "value"])
    options = ["--base", tmp_path / "base", "--rank", 2, "--check"]
    done = cli("export", source, "--to", "lora", "--out", tmp_path / "out", *options)
    assert done.code == 0, done.err
    assert "zeros in 2 modules: bert.encoder.layer.*.attention.self.key" in done.out
    assert "sora: 4 modules, truncated, largest relative error" in done.out and "rank 2 in all" in done.out
    assert "check: logits differ by at most" in done.out
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["target_modules"] == [
        "key", "query", "value",
    ]  # fmt: skip


def test_a_ragged_export_says_who_misreads_it(cli: Any, tmp_path: Path) -> None:
    source = adapter(tmp_path / "in", "sora", tiny_bert(), r=4)
    done = cli("export", source, "--out", tmp_path / "out", "--ragged")
    assert done.code == 0, done.err
    (line,) = done.err.splitlines()
    assert line.startswith("warning: a rank for each module") and "llama.cpp" in line and "SGLang" in line


def test_export_of_a_dense_update(cli: Any, tmp_path: Path) -> None:
    source = adapter(tmp_path / "in", "loran", mlp(), r=3, target_modules=["0", "2"], activation="tanh")
    done = cli("export", source, "--out", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert "loran has no lossless LoRA form" in done.err and "--max-error" in done.err
    assert not (tmp_path / "out").exists()
    done = cli("export", source, "--out", tmp_path / "out", "--max-error", 0.1)
    assert done.code == 0, done.err
    assert "loran: 2 modules, truncated, largest relative error" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "loar"], "unknown export format 'loar': did you mean 'lora'? Allowed: gguf, lora, merged, mlx"),
        (["--for", "vlm"], "unknown server 'vlm': did you mean 'vllm'? Allowed: llama.cpp, mlx, sglang, tgi, vllm"),
        (["--for", "vllm", "--to", "gguf"], "--to is 'gguf'; it must be lora or merged for vllm"),
        (
            ["--dtype", "float16"],
            "dtype is 'float16'; it must be left out unless a merged model is written (--to merged)",
        ),
        (["--to", "merged", "--ragged"], "ragged is True; it must be False for a merged model, which has no adapter"),
        (["--max-difference", "-1"], "max_difference is -1.0; it must be a number of at least 0"),
        (["--rank", "7"], "rank is 7; it must be between 1 and 6, the rank of the adapter's largest module"),
        (["--max-error", "2"], "max_error is 2.0; it must be between 0 and 1"),
        (["--rank", "0"], "rank is 0; it must be a whole number of at least 1"),
        (["--energy", "99"], "energy is 99.0; it must be above 0 and at most 1"),
        (["--check"], "the adapter names no base model: name it (--base)"),
    ],
)
def test_export_refuses(arguments: list[str], message: str, cli: Any, tmp_path: Path) -> None:
    source = adapter(tmp_path / "in", "lora", mlp(), r=2, target_modules=["0"])
    done = cli("export", source, "--out", tmp_path / "out", *arguments)
    assert (done.code, done.err) == (2, f"error: {message}\n")
    assert not (tmp_path / "out").exists()


def test_import(cli: Any, tmp_path: Path) -> None:
    state = {"fc.lora_A": torch.ones(2, 4), "fc.lora_E": torch.ones(2, 1), "fc.lora_B": torch.ones(3, 2)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    done = cli("import", tmp_path, "--out", tmp_path / "out")
    assert done.code == 2
    assert "loralib-adalora files do not hold lora_alpha: give --alpha" in done.err
    done = cli("import", tmp_path, "--out", tmp_path / "out", "--alpha", 32, "--base-model", "some/base")
    assert done.code == 0, done.err
    for text in ("loralib-adalora", "adalora", "1 modules", "init_r = 2, 15.9999", "some/base"):
        assert text in done.out
    assert "warning: ranknum is not in the file" in done.err
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["peft_type"] == "TAPERTUNE_ADALORA"
    done = cli("import", tmp_path, "--out", tmp_path / "other", "--format", "adalora")
    assert done.code == 2
    assert "unknown format 'adalora': did you mean" in done.err


def test_merge(cli: Any, tmp_path: Path) -> None:
    tiny_bert().to(torch.bfloat16).save_pretrained(tmp_path / "base")
    source = adapter(tmp_path / "in", "loran", tiny_bert(), r=3, modules_to_save=["classifier"])
    done = cli("merge", tmp_path / "base", source, tmp_path / "out")
    assert done.code == 0, done.err
    assert "12 modules into 1 files" in done.out
    assert "classifier.bias, classifier.weight" in done.out
    assert "warning: the weights are BF16, which cannot hold the fine structure" in done.err
    done = cli("merge", tmp_path / "base", source, tmp_path / "out")
    assert done.code == 2
    assert "is not empty; name a new folder" in done.err
    config = tmp_path / "base" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": {"quant_method": "gptq"}}))
    done = cli("merge", tmp_path / "base", source, tmp_path / "none")
    assert done.code == 2
    assert done.err.count("\n") == 1 and "is quantised (gptq)" in done.err
    assert not (tmp_path / "none").exists()


def test_export_of_a_whole_model(cli: Any, tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path / "base")
    source = adapter(tmp_path / "in", "aflora", tiny_bert(), r=3, modules_to_save=["classifier"])
    options = ["--base", tmp_path / "base", "--dtype", "bfloat16", "--check", "--for", "vllm"]
    done = cli("export", source, "--to", "merged", "--out", tmp_path / "out", *options)
    assert done.code == 0, done.err
    assert "of the update is below the weights' precision (bfloat16)" in done.out
    assert "check: logits differ by at most" in done.out and f"serve: vllm serve {tmp_path / 'out'}" in done.out


def test_merge_finds_what_train_finds(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``minilm`` is the folder of a package, here a small one."""
    from tapertune.train import models

    tiny_bert().save_pretrained(tmp_path / "base")
    monkeypatch.setattr(models, "find_model", {"minilm": str(tmp_path / "base")}.__getitem__)
    source = adapter(tmp_path / "in", "sora", tiny_bert(), r=3)
    done = cli("merge", "minilm", source, tmp_path / "out")
    assert done.code == 0, done.err
    done = cli("export", source, "--out", tmp_path / "lora", "--base", "minilm", "--check")
    assert done.code == 0 and "check: logits differ" in done.out, done.err
