"""Embeddings: the chain's first factor is looked up by token, as the base's weight is.

The factor takes the weight's place in the base's own lookup, so that ``padding_idx``, ``max_norm``,
``scale_grad_by_freq`` and a model's own scale or offset hold for both, as under PEFT's LoRA. There is no dropout:
tokens have no elements to drop.
"""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..kernels import Reads
from ..kernels.lookup import lookup
from .base_fields import BaseFields
from .layer import ChainLayer


class EmbeddingLayer(BaseFields, ChainLayer):
    """An adapted ``nn.Embedding``."""

    reads = Reads(tokens=True)

    @staticmethod
    def adapts(base: nn.Module) -> bool:
        """Whether a module is one that this adapts: an embedding whose weight is not packed."""
        if not isinstance(base, nn.Embedding) or "weight" not in base._parameters:
            return False
        return tuple(base.weight.shape) == (base.num_embeddings, base.embedding_dim)

    @staticmethod
    def facts_of(base: nn.Module) -> dict[str, Any]:
        return {"type": "Embedding"}

    def initialise(self, factor: Any, weight: Tensor) -> None:
        # a token reads one column: the rules for matrices would count as many inputs as there are tokens
        factor.init(weight.view(-1, 1) if "d_in" in factor.symbols and weight.dim() == 2 else weight)

    def to_layout(self, delta: Tensor) -> Tensor:
        return delta.T

    def _update(self, x: Tensor, name: str, alone: bool) -> Tensor:
        base = cast(nn.Embedding, self.get_base_layer())
        update, tensors, scaling = self.chains[name], self.tensors(name), self.scaling[name]
        if type(base).forward is not nn.Embedding.forward and not update.linear:
            # what the base does to what it reads stands outside of the map
            return functional_call(base, {"weight": update.delta_weight(tensors).T * scaling}, (x,))

        def look(table: Tensor) -> Tensor:
            if type(base).forward is not nn.Embedding.forward:
                return functional_call(base, {"weight": table}, (x,))
            return F.embedding(x, table, base.padding_idx, base.max_norm, base.norm_type, base.scale_grad_by_freq)

        return lookup(update, look, tensors, scaling)
