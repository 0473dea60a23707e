"""The formats of a LoRA adapter that an export can have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import unknown
from .contents import Contents
from .gguf_file import check_gguf, read_gguf, write_gguf
from .mlx_folder import check_mlx, read_mlx, write_mlx
from .peft_folder import add_pairs, check_peft, read_peft, write_peft


@dataclass(frozen=True, kw_only=True)
class Format:
    """How an adapter is written, and read back.

    Attributes:
        zeros: whether modules without an update are written.
        check: raises TapertuneError where the format cannot hold the contents.
        write: into a folder.
        load: the base model with what the folder holds in it.
        tokenizer: whether the tokenizer's files go along.
    """

    zeros: bool
    check: Callable[[Contents], None]
    write: Callable[[Path, Contents], None]
    load: Callable[[Path, Contents, Any], Any]
    tokenizer: bool = True


FORMATS = {
    "lora": Format(
        zeros=True,
        check=check_peft,
        write=write_peft,
        load=lambda folder, contents, model: read_peft(folder, model),
    ),
    "gguf": Format(
        zeros=False,
        check=check_gguf,
        write=write_gguf,
        load=lambda folder, contents, model: add_pairs(model, read_gguf(folder, contents)),
        tokenizer=False,  # the base's file has it
    ),
    "mlx": Format(
        zeros=True,
        check=check_mlx,
        write=write_mlx,
        load=lambda folder, contents, model: add_pairs(model, read_mlx(folder)),
    ),
}
MERGED = "merged"


def find_format(name: str) -> Format:
    """
    Raises:
        TapertuneError: there is no such format of adapters.
    """
    if name not in FORMATS:
        raise unknown("export format", name, FORMATS)
    return FORMATS[name]
