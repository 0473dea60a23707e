"""Fields of a base layer on the adapted one: what surrounds a convolution, an embedding or an attention reads them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

_INNER = ("_qkv_same_embed_dim",)  # read by torch's encoder layer


class BaseFields:
    """To be put before an adapted layer's class: what that does not have, its base has."""

    def __getattr__(self, name: str) -> Any:
        with suppress(AttributeError):
            return super().__getattr__(name)  # type: ignore[misc]
        base = vars(self).get("_modules", {}).get("base_layer")
        if base is None or (name.startswith("_") and name not in _INNER):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(base, name)
