"""A base model's safetensors files, read and written tensor by tensor.

Headers are read and checked by the safetensors package. It maps or loads whole files, while merging must hold one
tensor at a time: the tensors' bytes, which lie one behind the other after the header, are read and written here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import TapertuneError, bad_value, nearest
from .folder import check_plain, read_foreign_json
from .layer_kinds import base_path
from .names import find_names
from .shapes import shapes_of_base
from .tensors import open_safetensors

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I8": 8, "U8": 8, "BOOL": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
_CHUNK = 1 << 24
_NOT_NEEDED = ["*.bin", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf", "*.pt", "*.pth"]


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its bytes are ``file[start : start + size]``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    size: int

    def read(self) -> Tensor:
        """The tensor in memory of its own, to be changed in place; its dtype is one of ``FLOATS``."""
        data = bytearray(self.size)
        with self.file.open("rb") as file:
            file.seek(self.start)
            file.readinto(data)
        dtype = FLOATS[self.dtype]
        return torch.frombuffer(data, dtype=dtype).view(self.shape) if data else torch.empty(self.shape, dtype=dtype)

    def copy_to(self, out: BinaryIO) -> None:
        with self.file.open("rb") as file:
            file.seek(self.start)
            for done in range(0, self.size, _CHUNK):
                out.write(file.read(min(_CHUNK, self.size - done)))


@dataclass(frozen=True)
class Checkpoint:
    """A base model on disk: its config and its tensors by name; ``shards`` holds them by file, in file order."""

    folder: Path
    config: dict[str, Any]
    shards: dict[str, list[Entry]]
    metadata: dict[str, dict[str, str]]

    @property
    def entries(self) -> dict[str, Entry]:
        return {entry.name: entry for entries in self.shards.values() for entry in entries}

    @property
    def sharded(self) -> bool:
        return SINGLE not in self.shards


def open_checkpoint(base: str | Path) -> Checkpoint:
    """Reads a base model's config and the headers of its weights.

    Args:
        base: a folder, or a model's name on the Hub (looked up in the cache alone when ``HF_HUB_OFFLINE`` is set).

    Raises:
        TapertuneError: no such model, no safetensors weights, or a damaged file.
    """
    folder = _resolve(base)
    config = read_foreign_json(folder / "config.json")
    if (folder / SINGLE).is_file():
        files = [SINGLE]
    elif (folder / INDEX).is_file():
        files = _shard_names(folder)
    else:
        kinds = sorted({path.suffix for path in folder.iterdir()} & {".bin", ".gguf", ".h5", ".pt", ".pth"})
        found = f" (only {', '.join(kinds)}; load the model and save it again with save_pretrained)" if kinds else ""
        raise TapertuneError(f"no {SINGLE} and no {INDEX} in {folder}{found}")
    shards, metadata = {}, {}
    for name in files:
        shards[name], metadata[name] = _read_header(folder / name)
    return Checkpoint(folder, config, shards, metadata)


def base_input_widths(base: str | Path) -> Callable[[list[str]], Mapping[str, int]]:
    """A function that gives the input widths of a base model's modules."""

    def input_widths(modules: list[str]) -> dict[str, int]:
        checkpoint = open_checkpoint(base)
        entries = checkpoint.entries
        try:
            names = find_names([base_path(module) for module in modules], entries, str(base))
        except TapertuneError:  # a tied weight, or one under another name: the model itself knows
            return _widths_of_model(checkpoint, modules)
        axis = 0 if checkpoint.config.get("model_type") in CONV1D_MODELS else 1
        return {module: entries[names.weight(base_path(module))].shape[axis] for module in modules}

    return input_widths


def _widths_of_model(checkpoint: Checkpoint, modules: list[str]) -> dict[str, int]:
    """Input widths by the model's config.

    Raises:
        TapertuneError: the model has no such module.
    """
    widths = shapes_of_base(checkpoint.folder, modules, None, None).widths
    for module in modules:
        if module not in widths:
            guess = nearest(module, widths)
            hint = f"; the nearest is {guess!r}" if guess else ""
            raise TapertuneError(f"the base model {checkpoint.folder} has no module {module!r}{hint}")
    return {module: widths[module][1] for module in modules}


# The architectures whose linear layers are Conv1D: weights are stored (d_in, d_out).
CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")


def write_shard(
    path: Path, entries: list[Entry], metadata: Mapping[str, str], write: Callable[[Entry, BinaryIO], None]
) -> None:
    """Writes a safetensors file of these entries, in order; ``write`` is called for the bytes of each."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for entry in entries:
        place = [offset, offset + entry.size]
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": place}
        offset += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            begin = file.tell()
            write(entry, file)
            assert file.tell() - begin == entry.size, entry.name


def write_tensor(tensor: Tensor, out: BinaryIO) -> None:
    """A tensor's bytes, as they lie in memory."""
    flat = tensor.contiguous().view(-1).view(torch.uint8)
    for part in flat.split(_CHUNK):
        out.write(part.numpy().data)


def new_entry(name: str, tensor: Tensor) -> Entry:
    """The entry of a tensor that is in no file yet."""
    kinds = {dtype: kind for kind, dtype in FLOATS.items()}
    return Entry(name, kinds[tensor.dtype], tuple(tensor.shape), Path(), 0, tensor.numel() * tensor.element_size())


def renamed(entry: Entry, name: str) -> Entry:
    return replace(entry, name=name)


def _resolve(base: str | Path) -> Path:
    path = Path(base)
    if path.is_dir():
        return path
    if path.is_file() or str(base).startswith(("/", ".", "~")):
        kind = "a GGUF file, which is quantised" if path.suffix == ".gguf" else "no folder"
        raise TapertuneError(f"base model {str(base)!r} is {kind}; a folder with {SINGLE} is needed")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(base), ignore_patterns=_NOT_NEEDED))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise TapertuneError(
            f"base model {str(base)!r} is neither a folder nor to be had from the Hub: {error}"
        ) from error


def _read_header(path: Path) -> tuple[list[Entry], dict[str, str]]:
    entries = []
    with open_safetensors(path) as file:
        with path.open("rb") as raw:
            start = 8 + int.from_bytes(raw.read(8), "little")
        for name in file.offset_keys():
            place = file.get_slice(name)
            dtype, shape = str(place.get_dtype()), tuple(place.get_shape())
            if dtype not in _BITS:
                raise TapertuneError(f"{path}: {name} has the unknown dtype {dtype}")
            size = math.prod(shape) * _BITS[dtype] // 8
            entries.append(Entry(name, dtype, shape, path, start, size))
            start += size
        metadata = dict(file.metadata() or {})
    if start != path.stat().st_size:  # its own reader has checked that no byte is left over
        raise TapertuneError(f"{path} is damaged: its tensors end at byte {start:,} of {path.stat().st_size:,}")
    return entries, metadata


def _shard_names(folder: Path) -> list[str]:
    """The files that an index names.

    Raises:
        TapertuneError: it is no index, or names something else than files of the same folder.
    """
    index = folder / INDEX
    weight_map = read_foreign_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise bad_value(f"{index}: weight_map", weight_map, "an object of tensors' names with their files")
    names: set[str] = set()
    for tensor, name in weight_map.items():
        names.add(check_plain(name, f"{index}: weight_map.{tensor}"))
        if not str(name).endswith(".safetensors"):
            raise bad_value(f"{index}: weight_map.{tensor}", name, "the name of a .safetensors file")
    return sorted(names)
