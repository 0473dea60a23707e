"""Base models by the names that run files have for them."""

from __future__ import annotations


def find_base(name: str) -> str:
    """What a base model is loaded from: ``minilm`` and ``smollm2`` are folders of installed packages, as for ``train``.

    Raises:
        TapertuneError: the package is not installed.
    """
    from ..train.models import find_model

    return find_model(name)
