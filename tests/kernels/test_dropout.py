"""The byte mask: its share, its shape, its generator."""

from __future__ import annotations

import pytest
import torch

from tapertune.kernels import InputDropout, keep_mask
from tapertune.kernels.dropout import keep_scale


@pytest.mark.parametrize(("p", "gone"), [(0.1, 13 / 128), (0.5, 0.5), (0.001, 1 / 128), (0.999, 127 / 128)])
def test_share_and_scale(p: float, gone: float) -> None:
    torch.manual_seed(0)
    mask = keep_mask(torch.empty(1000, 1001), p)
    assert mask.dtype == torch.uint8 and mask.shape == (1000, 1001)
    assert set(mask.unique().tolist()) == {0, 1}
    assert 1 - mask.float().mean().item() == pytest.approx(gone, abs=2e-3)
    assert keep_scale(p) == pytest.approx(1 / (1 - gone))


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    mask = keep_mask(torch.empty(80_000), 0.5).double().view(-1, 8)
    correlation = torch.corrcoef(mask.T)
    assert (correlation - torch.eye(8)).abs().max() < 0.05


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_any_length(count: int) -> None:
    assert keep_mask(torch.empty(count), 0.3).shape == (count,)
    assert keep_mask(torch.empty(0, 3), 0.3).shape == (0, 3)


def test_it_follows_the_generator_and_only_trains() -> None:
    layer, x = InputDropout(0.25), torch.ones(64, 64, requires_grad=True)
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    torch.testing.assert_close(layer(x), first, rtol=0, atol=0)
    assert not torch.equal(layer(x), first)
    assert layer.eval()(x) is x
    first.sum().backward()
    torch.testing.assert_close(x.grad, first.detach())
    assert first.mean().item() == pytest.approx(1, abs=0.05)
