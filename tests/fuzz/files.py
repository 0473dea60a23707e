"""Kinds whose files lie in a folder: one of them is damaged at a time, and written anew afterwards."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from interop.damage import damage_safetensors

from .harness import Damage, Outcome
from .mutate import Change, as_text, change_bytes, change_json


class FolderKind:
    """The files of a folder, some of which are damaged.

    Args:
        folder: with healthy files.
        victims: those that may be damaged; all by default.
    """

    name = ""

    def __init__(self, folder: Path, victims: Iterable[Path] | None = None) -> None:
        self.folder = folder
        self.out = folder.parent / "out" / "made"
        self.out.parent.mkdir(exist_ok=True)
        files = sorted(folder.rglob("*")) if victims is None else sorted(victims)
        self.contents = {path: path.read_bytes() for path in files if path.is_file()}
        self.victim: Path | None = None
        self._healthy: dict[Any, Any] = {}

    def damage(self, rng: random.Random) -> Damage:
        self.victim = self.choose(rng)
        return self.damage_file(self.victim, rng)

    def choose(self, rng: random.Random) -> Path:
        return rng.choice(list(self.contents))

    def damage_file(self, path: Path, rng: random.Random) -> Damage:
        content, name = self.contents[path], path.relative_to(self.folder)
        kind = rng.random()
        if kind < 0.02:
            path.unlink()
            return Damage(f"{name}: removed")
        if path.suffix == ".json" and kind < 0.85:
            changed, change = change_json(json.loads(content), rng)
            path.write_text(as_text(changed, rng))
            return Damage(f"{name}: {change}", self.judges(path, change))
        if path.suffix == ".safetensors" and kind < 0.9:
            path.write_bytes(damage_safetensors(content, rng))
            return Damage(f"{name}: another header or bytes")
        changed, what = change_bytes(content, rng)
        path.write_bytes(changed)
        return Damage(f"{name}: {what}")

    def judges(self, path: Path, change: Change) -> bool:
        """Whether the change is one that may not go unnoticed."""
        return change.is_wrong

    def read(self) -> Outcome:
        raise NotImplementedError

    def key(self) -> Any:
        """Names the healthy outcome that the present case is compared with."""
        return None

    def healthy(self) -> Any:
        key = self.key()
        if key not in self._healthy:
            assert self.victim is None, "made before anything is damaged"
            self._healthy[key] = self.read().value
            self.clean()
        return self._healthy[key]

    def left(self) -> list[str]:
        return [path.name for path in self.out.parent.iterdir()]

    def clean(self) -> None:
        for path in self.out.parent.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def restore(self) -> None:
        if self.victim is not None:
            self.victim.write_bytes(self.contents[self.victim])
            self.victim = None
        self.clean()


class SeveralFolders(FolderKind):
    """Folders of several names, one of which is damaged at a time."""

    names: tuple[str, ...] = ()
    chosen = ""

    def choose(self, rng: random.Random) -> Path:
        self.chosen = rng.choice(self.names)
        return rng.choice([path for path in self.contents if path.parent.name == self.chosen])

    def key(self) -> str:
        return self.chosen

    def healthy(self) -> Any:
        if not self._healthy:
            for name in self.names:
                self.chosen = name
                super().healthy()
        return self._healthy[self.chosen]


def plain(value: Any) -> Any:
    """A value with tensors as their bytes, dtype and shape, and paths as their names, to be compared."""
    import torch

    if isinstance(value, torch.Tensor):
        return (
            str(value.dtype),
            tuple(value.shape),
            value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes(),
        )
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return [plain(inner) for inner in items]
    return value.name if isinstance(value, Path) else repr(value) if isinstance(value, float) else value
