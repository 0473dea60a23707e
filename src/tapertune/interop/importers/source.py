"""What an importer is given: the tensors of a file, and the config beside it where there is one."""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import TapertuneError, bad_value
from ..folder import CONFIG, check_inside, read_foreign_json
from ..tensors import read_safetensors

_NAMES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin", "model.safetensors", "delta.bin")
_PART = re.compile(r"\.a[a-z]$")


@dataclass
class Source:
    """A file to import.

    Attributes:
        path: what the user named.
        config: ``adapter_config.json`` beside the weights; empty where there is none.
        state: its tensors by key.
        alpha: the user's ``--alpha``.
        warnings: what an importer has to say; shown to the user.
    """

    path: Path
    config: dict[str, Any]
    state: dict[str, Tensor]
    alpha: float | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def peft_type(self) -> str | None:
        value = self.config.get("peft_type")
        return None if value is None else str(value)

    def has(self, pattern: str) -> bool:
        """Whether a key contains a match of the pattern."""
        return any(re.search(pattern, key) for key in self.state)

    def need(self, name: str, format: str) -> Any:
        """A field of the config.

        Raises:
            TapertuneError: it is not there.
        """
        if self.config.get(name) is None:
            raise TapertuneError(f"{self.path}: {format} needs {name!r}, which only its {CONFIG} holds")
        return self.config[name]

    def need_alpha(self, format: str, recorded: float | None, hint: str) -> float:
        """The numerator of the scaling: the user's, else the recorded one.

        Raises:
            TapertuneError: neither is there.
        """
        alpha = self.alpha if self.alpha is not None else recorded
        if alpha is None:
            raise TapertuneError(f"{self.path}: {format} files do not hold lora_alpha: give --alpha ({hint})")
        return alpha


def load_source(path: Path, alpha: float | None) -> Source:
    """Reads a file, or the weights of a folder; parts ``.aa``, ``.ab``, ... are joined.

    Raises:
        TapertuneError: nothing there, a part is missing, or a file that holds more than tensors.
    """
    if not path.exists() and not _parts(path):
        raise TapertuneError(f"nothing to import at {path}")
    weights = _find(path) if path.is_dir() else path
    folder = path if path.is_dir() else path.parent
    config = read_foreign_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    if alpha is not None and not math.isfinite(alpha):
        raise bad_value("alpha", alpha, "a finite number")
    return Source(path, config, _state(weights, named=not path.is_dir()), alpha)


def _find(folder: Path) -> Path:
    found = [folder / name for name in _NAMES if (folder / name).is_file() or _parts(folder / name)]
    if not found:
        found = sorted(p for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".safetensors"))
        if len(found) > 1:
            names = ", ".join(p.name for p in found)
            raise TapertuneError(f"{folder} holds several files of weights ({names}): name one")
    if not found:
        raise TapertuneError(f"{folder} holds no weights ({', '.join(_NAMES)}, or one of the first two in parts)")
    return found[0]


def _parts(path: Path) -> list[Path]:
    """The parts of a file that was split, ``name.aa``, ``name.ab``, ...; empty where it was not."""
    whole = path.with_suffix("") if _PART.search(path.name) else path
    if not whole.parent.is_dir():
        return []
    return sorted(p for p in whole.parent.iterdir() if p.name.startswith(whole.name + ".") and _PART.search(p.name))


def _state(path: Path, *, named: bool) -> dict[str, Tensor]:
    parts = _parts(path) if not path.is_file() or _PART.search(path.name) else []
    expected = [f"a{chr(ord('a') + i)}" for i in range(len(parts))]
    missing = next((e for part, e in zip(parts, expected, strict=True) if part.suffix != f".{e}"), None)
    if missing:
        raise TapertuneError(f"{parts[0].with_suffix('')} is in parts, and part .{missing} is missing")
    for file in parts or [path]:
        check_inside(file, follow=named)
    if not parts and path.suffix == ".safetensors":
        return read_safetensors(path, follow=named)
    content = io.BytesIO(b"".join(part.read_bytes() for part in parts)) if parts else path
    try:
        loaded = torch.load(content, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TapertuneError(
            f"{path} holds more than tensors and is not read, as that could run any code: save its state dict alone"
        ) from error
    except Exception as error:  # whatever the readers of two archive formats and of pickles raise for damaged bytes
        what = "damaged, or its last part is missing" if parts else "damaged or cut short"
        raise TapertuneError(f"{path} is {what}: {error}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise TapertuneError(f"{path} is no state dict: it holds other things than tensors")
    for key, value in loaded.items():
        if not isinstance(key, str) or value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise TapertuneError(f"{path}: {str(key)[:80]!r} is no plain tensor")
    return dict(loaded)
