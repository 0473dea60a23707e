"""The examples in pages and docstrings run, on tiny models, and links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import tapertune

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def examples(language: str, *pages: Path) -> list[Any]:
    numbered = [(page.stem, i, text) for page in pages for i, text in enumerate(blocks(page, language))]
    return [pytest.param(text, id=f"{stem}-{i}") for stem, i, text in numbered]


def tiny_model(*_: Any, **__: Any) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(vocab_size=50, max_position_embeddings=16, **sizes))


def rows(count: int = 8) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_ids": torch.randint(50, (8,), generator=generator), "labels": torch.tensor(i % 2)} for i in range(count)
    ]


@pytest.mark.parametrize("code", examples("python", ROOT / "README.md", ROOT / "docs" / "index.md"))
def test_example_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, "from_pretrained", tiny_model)
    if "PeftModel.from_pretrained" in code:
        import peft

        config = tapertune.make_config("aflora", task_type="SEQ_CLS")
        peft.get_peft_model(tiny_model(), config).save_pretrained(tmp_path / "runs" / "example")
    names: dict[str, Any] = {
        "base_model": tiny_model(),
        "train_data": rows(),
        "loader": torch.utils.data.DataLoader(rows(40), batch_size=2),  # type: ignore[arg-type]
    }
    exec(compile(code, "example", "exec"), names)
    if "events" in code or "TapertuneCallback" in code:
        assert list(tmp_path.rglob("events.jsonl"))


MODULES = [module.name for module in pkgutil.walk_packages(tapertune.__path__, "tapertune.")]


@pytest.mark.filterwarnings("ignore:tapertune.bench is now:DeprecationWarning")
@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_docstring_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("text", examples("yaml", *PAGES))
def test_settings_are_valid(text: str) -> None:
    from tapertune.runfile import yamlfile
    from tapertune.runfile.settings import check_settings

    parsed = yamlfile.parse(text, "example")
    if "rows" in parsed:  # a grid of runs
        from tapertune.compare.grid import check_grid

        assert check_grid(parsed).rows
        return
    complete = {"model": "minilm", "task": "rte", **parsed}
    assert check_settings(complete).method.name == "aflora"


def test_the_walk_through_of_contributing_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    from tapertune.methods import METHODS

    method, tests = blocks(ROOT / "CONTRIBUTING.md", "python")
    module = types.ModuleType("tapertune.methods.lora_fa")
    module.__package__ = "tapertune.methods"
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look the class up
    exec(compile(method, "lora_fa.py", "exec"), module.__dict__)
    monkeypatch.setitem(METHODS, "lora_fa", module.LORA_FA)
    names: dict[str, Any] = {}
    exec(compile(tests, "test_lora_fa.py", "exec"), names)
    found = [test for name, test in names.items() if name.startswith("test_")]
    assert len(found) == 3
    for test in found:
        test()


def test_the_guide_names_every_piece_of_a_plan() -> None:
    from tapertune.adapt import spec

    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").replace("\\|", "|")
    missing = [kind for kind in spec._KINDS if f"`{kind}`" not in text]
    assert not missing, f"docs/index.md does not name {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"
