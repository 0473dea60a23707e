"""What enters the lowest layer that trains, kept by row: later epochs begin there."""

from __future__ import annotations

from .cache import LayerCache
from .settings import CacheSettings, cache_settings

__all__ = ["CacheSettings", "LayerCache", "cache_settings"]
