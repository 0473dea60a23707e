"""A chain over token ids: what linear layers multiply with their input is looked up.

A token is a vector of zeros with a single one, so that its product with a factor (n_out, d_in) is a column of it. Only
the columns of a batch's tokens are read, and only these get a gradient; the rest of the chain is as of any layer,
r-wide up to its bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from ..methods import Update
from ..methods.base import Tensors

Look = Callable[[Tensor], Tensor]
"""A table (d_in, w) -> its rows for the tokens of a batch, (..., w)."""


def lookup(update: Update, look: Look, tensors: Tensors, scaling: float) -> Tensor:
    """``scaling * update`` of tokens; (..., d_out).

    Args:
        update: a chain, or one under a map.
        look: looks tokens up in a table.
        tensors: the factors by name.
        scaling: on the update.
    """
    columns, lead = dict(tensors), None
    for factor in update:
        if "d_in" not in factor.symbols:
            continue
        tensor = tensors[factor.name]
        rows = look(tensor.T if tensor.dim() == 2 else tensor.unsqueeze(1))
        lead = rows.shape[:-1]
        flat = rows.reshape(-1, rows.shape[-1])
        columns[factor.name] = flat.T if tensor.dim() == 2 else flat.squeeze(1)
    assert lead is not None, "a chain begins at d_in"
    if update.linear:
        down, up = update.lora_factors(columns)
        out = F.linear(down.T, up if scaling == 1.0 else up * scaling)
    else:
        out = update.delta_weight(columns).T * scaling
    return out.view(*lead, out.shape[-1])
