"""The node of a frozen convolution and its chain: gradients, twice, and what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from layer_kinds import adapted
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tapertune.kernels.convolution import Window, convolve

SAVED = torch.autograd.graph.saved_tensors_hooks


def tensors(window: Window, *, down: bool = True, up: bool = True) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    dims = len(window.shape)
    x = torch.randn(2, 4, *(5,) * dims, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 4 // window.groups, *window.shape, dtype=torch.float64)
    bias = torch.randn(4, dtype=torch.float64)
    first = torch.randn(2, weight[0].numel(), dtype=torch.float64, requires_grad=down)
    last = torch.randn(4, 2, dtype=torch.float64, requires_grad=up)
    return x, weight, bias, first, last


WINDOWS = [
    Window((3,), (2,), (1,), (1,)),
    Window((2, 2), (1, 1), (0, 1), (2, 1), groups=2),
    Window((1, 1), (1, 1), (0, 0), (1, 1)),
    Window((2, 1, 1), (1, 2, 2), (0, 0, 0), (1, 1, 1)),
]


@pytest.mark.parametrize("window", WINDOWS)
def test_gradients_once_and_twice(window: Window) -> None:
    x, weight, bias, down, up = tensors(window)
    mask = (torch.arange(x.numel()) % 3 > 0).to(torch.uint8).view(x.shape)

    def run(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        return convolve(window, x, weight, bias, window.weights(down, up), mask)

    assert torch.autograd.gradcheck(run, (x, down, up), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, down, up), fast_mode=True)


@pytest.mark.parametrize(("down", "up"), [(True, False), (False, True), (False, False)])
def test_gradients_with_parts_frozen(down: bool, up: bool) -> None:
    window = WINDOWS[1]
    x, weight, bias, first, last = tensors(window, down=down, up=up)
    wanted = [t for t in (x, first, last) if t.requires_grad]
    with SAVED(lambda t: kept.append(t.shape) or t, lambda t: t):
        kept: list[Any] = []
        y = convolve(window, x, weight, bias, window.weights(first, last))
    assert (x.shape in kept) is down, "the input is kept for down alone"
    grads = torch.autograd.grad(y.square().sum(), wanted)
    delta = (last.view(2, 2, 2) @ first).reshape(weight.shape)
    expected = torch.autograd.grad(window.over(x, weight + delta, bias).square().sum(), wanted)
    for grad, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, other)


def kept_bytes(model: nn.Module, x: Tensor, *, autocast: bool = False) -> int:
    """Bytes that a training pass keeps, each tensor as often as it is kept, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        if tensor.untyped_storage().data_ptr() not in weights:
            total += tensor.numel() * tensor.element_size()
        return tensor

    with SAVED(pack, lambda t: t), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model.train()(x)
    return total


@pytest.mark.parametrize("autocast", [False, True])
def test_the_input_is_kept_once(autocast: bool) -> None:
    """peft/issues/2196: beside a frozen convolution's input, LoRA's is kept again."""

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, padding=1)
            self.part = nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3)))

        def forward(self, x: Tensor) -> Tensor:
            return self.part(self.stem(x))

    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    targets = r"part\.\d"
    ours = kept_bytes(adapted(Stack(), "lora", target_modules=targets), x, autocast=autocast)
    theirs = kept_bytes(get_peft_model(Stack(), LoraConfig(r=4, target_modules=targets)), x, autocast=autocast)
    frozen = Stack().requires_grad_(False)
    alone = kept_bytes(frozen, x, autocast=autocast)
    assert ours < 1.3 * alone < 1.6 * alone < theirs
