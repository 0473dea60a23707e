"""Kernels in C++: ``lowrank_products.cpp`` multiplies with narrow factors, ``sinter.cpp`` makes LoRAN's update."""

from __future__ import annotations

from .build import library, why_not

__all__ = ["library", "why_not"]
