"""Kinds of adapters and base models: what ``inspect``, ``export``, ``merge``, ``import`` and ``evaluate`` read."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from interop.test_importers import PEFT_0_4, aflora, loralib, mlora, mlora_config, peft_model, write_peft
from peft import AdaLoraConfig, LoraConfig, VeraConfig, get_peft_model
from safetensors.torch import load_file
from tiny import tiny_bert
from train.tiny_run import raw_settings, write_data, write_model

import tapertune
from tapertune.interop import export_lora, import_adapter, merge
from tapertune.interop.description import describe_adapter
from tapertune.methods import METHODS
from tapertune.runfile.settings import check_settings
from tapertune.train.runner import run
from tapertune.train.trained_folder import load_trained, open_folder, task_of

from .files import SeveralFolders, plain
from .harness import Outcome
from .mutate import Change

TARGETS = ["query", "output.dense"]
_FREE = {"auto_mapping", "task_type", "base_model_name_or_path", "revision", "peft_version", "inference_mode"}
"""Fields of an adapter's config that say nothing of what it computes."""
_SEVERAL = {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "plan"}
"""Fields that may have values of several types."""


def write_adapters(root: Path) -> None:
    """One adapter a method, trained a little in that some of its factors are frozen, and one of PEFT's."""
    for name in METHODS:
        config = tapertune.make_config(
            name, init_weights=False, target_modules=["query"], modules_to_save=["classifier"]
        )
        get_peft_model(tiny_bert(), config).save_pretrained(root / name)
    (root / "lora" / "task.json").write_text(json.dumps({"name": "t", "labels": ["no", "yes"], "metrics": []}))
    lora = LoraConfig(
        r=2, init_lora_weights=False, target_modules=["query"], rank_pattern={"0.attention.self.query": 2}
    )
    get_peft_model(tiny_bert(), lora).save_pretrained(root / "peft")
    for path in root.rglob("README.md"):
        path.unlink()


class _Adapters(SeveralFolders):
    """Adapters of which one is damaged at a time."""

    def __init__(self, root: Path, names: tuple[str, ...]) -> None:
        folder = root / self.name
        folder.mkdir()
        write_adapters(folder)
        tiny_bert().save_pretrained(folder / "base", max_shard_size="8KB")
        super().__init__(folder, [p for name in names for p in (folder / name).iterdir()])
        self.names = names

    def judges(self, path: Path, change: Change) -> bool:
        return change.is_wrong and change.path[0] not in _SEVERAL


class Inspect(_Adapters):
    name = "inspect"

    def __init__(self, root: Path) -> None:
        super().__init__(root, (*METHODS, "peft"))

    def read(self) -> Outcome:
        facts = describe_adapter(self.folder / self.chosen)
        json.dumps(facts, allow_nan=False).encode()
        return Outcome({key: value for key, value in facts.items() if key != "bytes"})


class Export(_Adapters):
    name = "export"

    def __init__(self, root: Path) -> None:
        super().__init__(root, tuple(METHODS))

    def judges(self, path: Path, change: Change) -> bool:
        return super().judges(path, change) and change.path[0] not in _FREE

    def read(self) -> Outcome:
        export_lora(self.folder / self.chosen, self.out, max_error=0.5, base=self.folder / "base")
        return Outcome(plain(load_file(self.out / "adapter_model.safetensors")))


class Merge(_Adapters):
    """The base's files are damaged as often as the adapters'."""

    name = "merge"

    def __init__(self, root: Path) -> None:
        super().__init__(root, tuple(METHODS))
        self.base = self.folder / "base"
        self.contents |= {path: path.read_bytes() for path in self.base.iterdir()}

    def choose(self, rng: random.Random) -> Path:
        path = super().choose(rng)
        return rng.choice([p for p in self.contents if p.parent == self.base]) if rng.random() < 0.5 else path

    def judges(self, path: Path, change: Change) -> bool:
        if path.parent == self.base:  # transformers' own config is copied, wrong or not
            return path.name == "model.safetensors.index.json" and change.is_wrong and change.path[0] == "weight_map"
        return super().judges(path, change) and change.path[0] not in _FREE

    def read(self) -> Outcome:
        merge(self.base, self.folder / self.chosen, self.out)
        written = [path for path in self.out.iterdir() if path.suffix == ".safetensors"]
        return Outcome({path.name: plain(load_file(path)) for path in written})


class Import(SeveralFolders):
    """An adapter in each layout that is imported."""

    name = "import"

    def __init__(self, root: Path) -> None:
        folder = root / self.name
        folder.mkdir()
        self.alphas: dict[str, float | None] = dict.fromkeys(write_foreign(folder))
        self.alphas |= dict.fromkeys(("loralib-adalora", "loralib-lora2"), 32.0)
        super().__init__(folder)
        self.names = tuple(self.alphas)

    def judges(self, path: Path, change: Change) -> bool:
        return change.is_wrong and change.path[0] not in {*_SEVERAL, *_FREE}

    def read(self) -> Outcome:
        report = import_adapter(self.folder / self.chosen, self.out, alpha=self.alphas[self.chosen])
        assert {path.name for path in self.out.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
        return Outcome((report.format, plain(report.adapter.modules), report.adapter.scaling))


def write_foreign(folder: Path) -> list[str]:
    """One adapter of each of ``FORMATS`` in a folder of the format's name; returns the names."""
    state, _ = aflora(1.0)
    write_peft(folder / "aflora-glue", state, bin=True, **PEFT_0_4)
    write_peft(folder / "aflora-gsm8k", state, **{**PEFT_0_4, "lora_type": "aflora", "lora_alpha": 64})
    for name, inner in (("loralib-adalora", None), ("loralib-lora2", 2)):
        (folder / name).mkdir()
        torch.save(loralib(inner)[0], folder / name / "pytorch_model.bin")
    write_peft(folder / "loran-mlora", mlora("Cos", [5], True, True)[0], **mlora_config("Cos", [4, 5]))
    (folder / "sora").mkdir()
    gates = {"fc.lora.lora_A": torch.ones(4, 6), "fc.lora.lora_B": torch.ones(5, 4), "fc.lora.gate": torch.ones(1, 4)}
    torch.save(gates, folder / "sora" / "pytorch_model.bin")
    (folder / "sora" / "config.json").write_text(json.dumps({"lora_r": 4, "lora_alpha": 16}))
    common: dict[str, Any] = {"target_modules": TARGETS, "modules_to_save": ["classifier"]}
    peft_model(folder / "peft-adalora", AdaLoraConfig(init_r=4, target_r=2, lora_alpha=6, total_step=100, **common))
    peft_model(folder / "peft-vera", VeraConfig(r=6, projection_prng_key=7, **common))
    pattern = {"0.attention.self.query": 3}
    peft_model(
        folder / "peft-lora", LoraConfig(r=2, lora_alpha=3, rank_pattern=pattern, alpha_pattern=pattern, **common)
    )
    for path in folder.rglob("README.md"):
        path.unlink()
    return [path.name for path in folder.iterdir()]


class Evaluate(SeveralFolders):
    """The folder of a run that is done, as ``evaluate`` and ``predict`` load it: an adapter's, and a merged model's."""

    name = "evaluate"

    def __init__(self, root: Path) -> None:
        folder = root / self.name
        write_model(folder / "model")
        write_data(folder / "data", rows=8)
        names = ("aflora", "adalora", "head")
        for method in names:
            raw = raw_settings(folder, method, output_dir=str(folder / method), training__max_steps=2)
            raw["training"] |= {"save_strategy": "no", "eval_strategy": "no"}
            raw.pop("plan", None)
            del raw["training"]["save_steps"]
            run(check_settings(raw))
        kept = {"adapter_config.json", "adapter_model.safetensors", "task.json", "run.json", "config.json",
                "model.safetensors"}  # fmt: skip
        super().__init__(folder, [p for name in names for p in (folder / name).iterdir() if p.name in kept])
        self.names = names

    def judges(self, path: Path, change: Change) -> bool:
        if path.name == "adapter_config.json":
            return change.is_wrong and change.path[0] not in {*_SEVERAL, *_FREE}
        return change.is_wrong and path.name == "task.json"

    def read(self) -> Outcome:
        folder = open_folder(self.folder / self.chosen)
        task = task_of(folder, None)
        model, tokenizer = load_trained(folder, task)
        with torch.no_grad():
            logits = model(**tokenizer(["good tea", "bad rain"], return_tensors="pt")).logits
        if not torch.isfinite(logits).all():
            raise AssertionError("answers that are not finite")
        return Outcome((task.labels, task.metrics, plain(logits)))
