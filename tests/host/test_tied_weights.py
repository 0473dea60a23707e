"""Weights that are tied: merging changes the adapted module, and no other that has its weight."""

from __future__ import annotations

import copy

import pytest
import torch
from layer_kinds import adapted
from torch import Tensor, nn

from tapertune.methods import METHODS


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed_tokens = nn.Embedding(9, 4)
        self.lm_head = nn.Linear(4, 9, bias=False)
        self.lm_head.weight = self.embed_tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.lm_head(self.embed_tokens(x))


X = torch.arange(9)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_merging_unties_and_unmerging_ties(method: str, targets: list[str]) -> None:
    model = adapted(Tied(), method, target_modules=targets).eval()
    base = model.base_model.model
    weight = base.embed_tokens.weight
    expected = model(X)
    model.merge_adapter()
    torch.testing.assert_close(model(X), expected)
    torch.testing.assert_close(copy.deepcopy(model)(X), expected)
    model.unmerge_adapter()
    assert base.embed_tokens.weight is weight is base.lm_head.weight
    assert torch.equal(model(X), expected)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(X), expected)
    assert merged.embed_tokens.weight is not merged.lm_head.weight
