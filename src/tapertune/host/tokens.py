"""Tokens whose embeddings train beside an adapter: PEFT's own mechanism, asked for by ``trainable_token_indices``."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from ..errors import TapertuneError, bad_value, nearest
from .config import ChainConfig


def check_tokens(config: ChainConfig, model: nn.Module) -> None:
    """
    Raises:
        TapertuneError: no module has the name that is given, it is no embedding, or it has no such token.
    """
    given = config.trainable_token_indices
    if given is None:
        return
    lists = given if isinstance(given, dict) else {None: given}
    for name, numbers in lists.items():
        table = _own(model) if name is None else _named(model, name)
        if table is not None and max(numbers) >= table:
            raise bad_value("trainable_token_indices", max(numbers), f"numbers below {table}, the vocabulary's size")


def _own(model: nn.Module) -> int | None:
    """The size of the model's own vocabulary; None where the model does not tell, which PEFT says better."""
    try:
        return _size(cast(Any, model).get_input_embeddings())
    except (AttributeError, NotImplementedError):
        return None


def _named(model: nn.Module, name: str) -> int | None:
    hits = [module for path, module in model.named_modules() if path == name or path.endswith("." + name)]
    if not hits:
        tables = {path.rpartition(".")[2] for path, module in model.named_modules() if isinstance(module, nn.Embedding)}
        guess = nearest(name, tables)
        hint = "" if guess is None else f"; did you mean {guess!r}?"
        raise TapertuneError(f"trainable_token_indices: no module is called {name!r}{hint}")
    return _size(hits[0])


def _size(module: Any) -> int | None:
    weight = getattr(module, "weight", None)
    return None if weight is None or weight.dim() != 2 else int(weight.shape[0])
