"""The methods, a line each: everything else (configs, layers, counts, exports, docs) is derived from these rows."""

from __future__ import annotations

from ..errors import unknown
from .adalora import ADALORA
from .aflora import AFLORA
from .base import Chain, Diagonal, Factor, Matrix, Method, Update
from .elora import ELORA
from .lora import LORA
from .lora2 import LORA2
from .loran import LORAN
from .sora import SORA

METHODS: dict[str, Method] = {
    "lora": LORA,
    "aflora": AFLORA,
    "adalora": ADALORA,
    "lora2": LORA2,
    "loran": LORAN,
    "sora": SORA,
    "elora": ELORA,
}


def get_method(name: str) -> Method:
    """The row of that name.

    Raises:
        TapertuneError: no such method; the nearest name is suggested.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


__all__ = ["METHODS", "Chain", "Diagonal", "Factor", "Matrix", "Method", "Update", "get_method"]
