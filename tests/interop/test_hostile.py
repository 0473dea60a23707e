"""Files made wrong by accident or on purpose: one line, nothing written elsewhere, nothing read from elsewhere."""

from __future__ import annotations

import json
import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interop.damage import damage_file
from peft import get_peft_model
from safetensors.torch import load_file
from tiny import tiny_bert

import tapertune
from tapertune.errors import TapertuneError
from tapertune.interop import export_lora, import_adapter, merge
from tapertune.methods import METHODS

SHARDS = "8KB"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded base, one of our adapters with a head, a PEFT LoRA and a loralib checkpoint."""
    from peft import LoraConfig

    root = tmp_path_factory.mktemp("made")
    tiny_bert().save_pretrained(root / "base", max_shard_size=SHARDS)
    (root / "base" / "tokenizer.json").write_text("{}")
    tiny_bert().save_pretrained(root / "single")
    for name in METHODS:
        config = tapertune.make_config(
            name, init_weights=False, target_modules=["query"], modules_to_save=["classifier"]
        )
        get_peft_model(tiny_bert(), config).save_pretrained(root / name)
    (root / "lora" / "task.json").write_text(json.dumps({"name": "t", "labels": ["no", "yes"], "metrics": []}))
    config = LoraConfig(
        r=2, init_lora_weights=False, target_modules=["query"], rank_pattern={"0.attention.self.query": 2}
    )
    get_peft_model(tiny_bert(), config).save_pretrained(root / "peft")
    (root / "bin").mkdir()
    torch.save(load_file(root / "peft" / "adapter_model.safetensors"), root / "bin" / "adapter_model.bin")
    shutil.copy(root / "peft" / "adapter_config.json", root / "bin")
    return root


@pytest.fixture
def files(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "files")
    return tmp_path / "files"


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def refused(action: Callable[[Path], Any], out: Path, message: str) -> None:
    before = sorted(out.parent.iterdir())
    with pytest.raises(TapertuneError, match=message) as caught:
        action(out)
    assert "\n" not in str(caught.value)
    assert sorted(out.parent.iterdir()) == before, "nothing is written"


# ---- names and links -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/tmp/x.safetensors",
        "a/b.safetensors",
        "..",
        "",
        "a\\b.safetensors",
        "C:x.safetensors",
        ".",
        "x\x00.safetensors",
        3,
        None,
        ["x"],
        "config.json",
    ],
)
def test_a_shard_is_a_plain_name(name: Any, files: Path, tmp_path: Path) -> None:
    index = files / "base" / "model.safetensors.index.json"
    shard = next(iter(json.loads(index.read_text())["weight_map"].values()))
    shutil.copy(files / "base" / shard, files / "x.safetensors")
    change(index, lambda value: value["weight_map"].update({"some.weight": name}))
    (tmp_path / "to").mkdir()
    refused(
        lambda out: merge(files / "base", files / "lora", out), tmp_path / "to" / "out", r"weight_map\.some\.weight is"
    )


@pytest.mark.parametrize("map", [None, [], {}, "x", 3])
def test_an_index_without_a_map(map: Any, files: Path, tmp_path: Path) -> None:
    change(files / "base" / "model.safetensors.index.json", lambda value: value.update(weight_map=map))
    refused(
        lambda out: merge(files / "base", files / "lora", out),
        tmp_path / "out",
        "weight_map is .* it must be an object",
    )


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "extra.txt", "model-00001-of-00004.safetensors"])
def test_a_link_out_of_the_base_is_not_followed(name: str, files: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    path = files / "base" / name
    if path.exists():
        path.rename(secret)
    else:
        secret.write_text("root:x:0:0")
    path.symlink_to(secret)
    refused(lambda out: merge(files / "base", files / "lora", out), tmp_path / "out", "is a link that leads out")
    path.unlink()
    path.symlink_to(path)  # in a circle
    refused(lambda out: merge(files / "base", files / "lora", out), tmp_path / "out", "cannot read|no weights")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "task.json"])
@pytest.mark.parametrize("kind", ["ours", "peft"])
def test_a_link_out_of_an_adapter_is_not_followed(name: str, kind: str, files: Path, tmp_path: Path) -> None:
    folder = files / ("lora" if kind == "ours" else "peft")
    if not (folder / name).exists():
        pytest.skip("not of this kind")
    (folder / name).rename(tmp_path / "elsewhere.safetensors")
    (folder / name).symlink_to(tmp_path / "elsewhere.safetensors")
    actions = [lambda out: merge(files / "base", folder, out), lambda out: export_lora(folder, out)]
    if kind == "peft":
        actions = [lambda out: import_adapter(folder, out)]
    elif name == "task.json":
        actions = actions[:1]
    for action in actions:
        refused(action, tmp_path / "out", "is a link that leads out")


def test_links_inside_a_folder_and_of_the_hubs_cache(files: Path, tmp_path: Path) -> None:
    """Snapshots are links to blobs, of bases and of adapters; a whole folder may be a link as well."""
    for name in ("base", "lora", "peft"):
        repository = tmp_path / "hub" / f"models--me--{name}"
        (repository / "blobs").mkdir(parents=True)
        snapshot = repository / "snapshots" / "0123abc"
        snapshot.mkdir(parents=True)
        for number, path in enumerate(sorted((files / name).iterdir())):
            shutil.move(path, repository / "blobs" / str(number))
            (snapshot / path.name).symlink_to(Path("..") / ".." / "blobs" / str(number))
        (tmp_path / name).symlink_to(snapshot)
    report = merge(tmp_path / "base", tmp_path / "lora", tmp_path / "out")
    assert len(report.modules) == 2 and (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_symlink()]
    import_adapter(tmp_path / "peft", tmp_path / "imported")
    # a file that the user has named may be a link to anywhere
    (tmp_path / "w.bin").symlink_to(files / "bin" / "adapter_model.bin")
    import_adapter(tmp_path / "w.bin", tmp_path / "named", alpha=2)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no fifos here")
def test_what_is_no_file_is_not_waited_for(files: Path, tmp_path: Path) -> None:
    os.mkfifo(files / "pipe.bin")
    refused(lambda out: import_adapter(files / "pipe.bin", out), tmp_path / "out", "is no regular file")
    (files / "peft" / "adapter_config.json").unlink()
    os.mkfifo(files / "peft" / "adapter_config.json")
    refused(lambda out: import_adapter(files / "peft", out), tmp_path / "out", "is no regular file")
    os.mkfifo(files / "base" / "fifo.txt")  # a side file that is none is left out
    merge(files / "base", files / "lora", tmp_path / "merged")
    assert not (tmp_path / "merged" / "fifo.txt").exists()


def test_json_that_is_too_much(files: Path, tmp_path: Path) -> None:
    path = files / "lora" / "adapter_config.json"
    path.write_text('{"peft_type": ' + "[" * 100_000 + "]" * 100_000 + "}")
    refused(lambda out: merge(files / "base", files / "lora", out), tmp_path / "out", "nested too deeply|not JSON")
    path.write_text('{"peft_type": "\\ud800"}')
    refused(lambda out: merge(files / "base", files / "lora", out), tmp_path / "out", "not JSON")


def test_a_config_of_a_million_layers(files: Path, tmp_path: Path) -> None:
    """Merging asks the base's architecture what is tied; nothing is built for a number that no file can hold."""
    change(files / "base" / "config.json", lambda value: value.update(num_hidden_layers=10**9))
    merge(files / "base", files / "lora", tmp_path / "out")


def test_a_class_that_is_no_model(files: Path, tmp_path: Path) -> None:
    """Names of classes from files are looked up among transformers' models only, and nothing is imported for them."""
    for value in ("__import__", "AutoTokenizer", "pipeline", "os.system", 3):
        change(files / "lora" / "adapter_config.json", lambda config, v=value: config.update(
            task_type=None, auto_mapping={"base_model_class": v, "parent_library": "antigravity"}
        ))  # fmt: skip
        change(files / "base" / "config.json", lambda config, v=value: config.update(architectures=[v]))
        merge(files / "base", files / "lora", tmp_path / f"out-{value}".replace(".", "_"))


# ---- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_have_the_usual_permissions(mask: int, files: Path, tmp_path: Path) -> None:
    """Those of any new file: a server under another account reads what it may read elsewhere."""
    previous = os.umask(mask)
    try:
        merge(files / "base", files / "lora", tmp_path / "merged")
        export_lora(files / "lora", tmp_path / "exported")
        import_adapter(files / "peft", tmp_path / "imported")
    finally:
        os.umask(previous)
    for folder in ("merged", "exported", "imported"):
        modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / folder).iterdir()}
        assert set(modes.values()) == {oct(0o666 & ~mask)}, (folder, modes)


# ---- at random -------------------------------------------------------------------------------------------------------


def attempt(root: Path, number: int, seed: int) -> str:
    """One damaged file, one command. What is not refused in one line must have written a whole folder."""
    rng = random.Random(f"{seed}-{number}")
    work = root / "work"
    method = rng.choice(list(METHODS))
    kind, folders, action = rng.choice([
        ("merge", ["base", method], lambda out: merge(work / "base", work / method, out)),
        ("merge", ["single", "lora"], lambda out: merge(work / "single", work / "lora", out)),
        ("export", [method, "base"], lambda out: export_lora(work / method, out, max_error=0.5, base=work / "base")),
        ("import", ["peft"], lambda out: import_adapter(work / "peft", out)),
        ("import", ["bin"], lambda out: import_adapter(work / "bin", out)),
    ])  # fmt: skip
    work.mkdir()
    for folder in dict.fromkeys(folders):
        shutil.copytree(root / "made" / folder, work / folder)
    victims = sorted(p for f in folders for p in (work / f).iterdir() if p.suffix in (".json", ".safetensors", ".bin"))
    victim = rng.choice(victims)
    damage_file(victim, rng)
    out = root / "target" / "out"
    out.parent.mkdir()
    label = f"case {seed}-{number}: {kind}, {victim.relative_to(work)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action(out)
        outcome = "taken"
        assert [path.name for path in out.parent.iterdir()] == ["out"], label
    except TapertuneError as error:
        outcome = "refused"
        assert not list(out.parent.iterdir()), f"{label}: left something"
        text = str(error)
        assert "\n" not in text.strip() and len(text) < 5000, f"{label}: {text}"
        text.encode("utf-8")
    except Exception as error:
        raise AssertionError(f"{label}: {type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(work)
        shutil.rmtree(out.parent)
    return outcome


def fuzz(root: Path, made: Path, cases: int, seed: int) -> dict[str, int]:
    (root / "made").symlink_to(made)
    outcomes = [attempt(root, number, seed) for number in range(cases)]
    counts = {name: outcomes.count(name) for name in ("taken", "refused")}
    print(f"seed {seed}, {cases} cases: {counts}")
    return counts


def test_damaged_files_at_random(made: Path, tmp_path: Path) -> None:
    counts = fuzz(tmp_path, made, 200, seed=0)
    assert counts["refused"] > 50 and counts["taken"] > 10, "both happen, else nothing was tried"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_damaged_files_at_random(seed: int, made: Path, tmp_path: Path) -> None:
    fuzz(tmp_path, made, 2000, seed)
