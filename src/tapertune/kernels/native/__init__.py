"""Products with narrow factors as compiled code; see ``narrow.cpp`` for what it does and ``build`` for how it is made."""

from __future__ import annotations

from .build import library, why_not

__all__ = ["library", "why_not"]
