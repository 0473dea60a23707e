"""What forward needs of a layer is looked up once, and looked up again whenever some of it has been replaced."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import tiny_bert
from torch import nn

import tapertune
from tapertune.host import ChainLayer
from tapertune.kernels import Call, Path, choose
from tapertune.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore:.*whose plan nobody runs:UserWarning")


def model_of(method: str = "lora", **values: Any) -> Any:
    torch.manual_seed(1)
    config = tapertune.make_config(method, target_modules=["query"], init_weights=False, **values)
    return get_peft_model(tiny_bert(), config).train()


def layer_of(model: Any) -> ChainLayer:
    return next(m for m in model.modules() if isinstance(m, ChainLayer))


def fused(layer: ChainLayer, x: torch.Tensor) -> bool:
    state = layer.current()
    return state is not None and choose(state.spec, Call.of(x)) is not Path.UNFUSED


def expected(layer: ChainLayer, x: torch.Tensor) -> torch.Tensor:
    adapter = layer.active_adapters[0]
    tensors = layer.tensors(adapter)
    return layer.base_layer(x) + layer.scaling[adapter] * layer.chains[adapter].apply(x, tensors)


def replace_factor(model: Any, layer: ChainLayer) -> None:
    layer.factor_modules("B")["default"].weight = nn.Parameter(torch.randn_like(layer.factor("default", "B")))


def replace_holder(model: Any, layer: ChainLayer) -> None:
    holder = copy.deepcopy(layer.factor_modules("B")["default"])
    nn.init.normal_(holder.weight)
    layer.factor_modules("B")["default"] = holder


def replace_base_weight(model: Any, layer: ChainLayer) -> None:
    layer.base_layer.weight = nn.Parameter(torch.randn(16, 16), requires_grad=False)


def replace_base(model: Any, layer: ChainLayer) -> None:
    layer.base_layer = nn.Linear(16, 16).requires_grad_(False)


def add_adapter(model: Any, layer: ChainLayer) -> None:
    config = tapertune.make_config("lora", target_modules=["query"], init_weights=False, r=3, lora_alpha=5)
    model.add_adapter("other", config)
    model.set_adapter("other")


def change_dtype(model: Any, layer: ChainLayer) -> None:
    model.double()


def scale(model: Any, layer: ChainLayer) -> None:
    layer.scaling["default"] = 0.25


@pytest.mark.parametrize(
    "change", [replace_factor, replace_holder, replace_base_weight, replace_base, add_adapter, change_dtype, scale]
)
@pytest.mark.parametrize("method", ["lora", "elora"])
def test_what_is_replaced_is_seen(method: str, change: Callable[[Any, ChainLayer], None]) -> None:
    model = model_of(method)
    layer = layer_of(model)
    x = torch.randn(2, 3, 16)
    if method == "elora" and change in (replace_factor, replace_holder, add_adapter):
        pytest.skip("ELoRA's B is shared by all modules; PEFT takes one such adapter")
    torch.testing.assert_close(layer(x), expected(layer, x))
    seen = layer.snapshot
    assert seen is not None and layer.current() is seen
    change(model, layer)
    x = x.to(layer.base_layer.weight.dtype)
    torch.testing.assert_close(layer(x), expected(layer, x))
    assert fused(layer, x)


def hook(model: Any, layer: ChainLayer) -> None:
    layer.base_layer.register_forward_hook(lambda module, inputs, output: output + 1)


def thaw(model: Any, layer: ChainLayer) -> None:
    layer.base_layer.bias.requires_grad_(True)


def override(model: Any, layer: ChainLayer) -> None:
    layer.base_layer.forward = lambda x: 2 * x


@pytest.mark.parametrize("change", [hook, thaw, override])
def test_what_keeps_a_layer_from_one_node_is_seen(change: Callable[[Any, ChainLayer], None]) -> None:
    model = model_of()
    layer = layer_of(model)
    x = torch.randn(2, 3, 16)
    layer(x)
    assert layer.snapshot is not None
    change(model, layer)
    torch.testing.assert_close(layer(x), expected(layer, x))
    assert layer.snapshot is None


def test_merged_disabled_and_back() -> None:
    model = model_of()
    layer = layer_of(model)
    x = torch.randn(2, 3, 16)
    adapted = layer(x)
    with model.disable_adapter():
        torch.testing.assert_close(layer(x), layer.base_layer(x))
    torch.testing.assert_close(layer(x), adapted)
    layer.merge()
    torch.testing.assert_close(layer(x), adapted, rtol=1e-4, atol=1e-5)
    assert layer.snapshot is None
    layer.unmerge()
    torch.testing.assert_close(layer(x), adapted, rtol=1e-4, atol=1e-5)
    assert layer.snapshot is not None


def test_copies_look_for_themselves() -> None:
    layer = layer_of(model_of())
    x = torch.randn(2, 3, 16)
    layer(x)
    copied = copy.deepcopy(layer)
    assert copied.snapshot is None
    nn.init.normal_(copied.factor("default", "B"))
    torch.testing.assert_close(copied(x), expected(copied, x))
    replica = copy.copy(layer)  # as DataParallel makes them
    replica.__dict__ = {**vars(layer), "_modules": dict(layer._modules)}
    replica._modules["base_layer"] = nn.Linear(16, 16).requires_grad_(False)
    torch.testing.assert_close(replica(x), expected(replica, x))
    assert pickle.loads(pickle.dumps(layer.snapshot)) is None


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("name", METHODS)
def test_an_adapter_in_float32_over_a_base_in_bfloat16(
    name: str, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PEFT makes them. What is computed is off by bfloat16's own rounding, and nothing wide is kept in float32."""

    def passed(kernel: str, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], Any]:
        monkeypatch.setenv("TAPERTUNE_KERNEL", kernel)
        torch.manual_seed(0)
        base = nn.Sequential(nn.Linear(96, 160)).bfloat16()
        config = tapertune.make_config(
            name, target_modules=["0"], init_weights=False, dropout=dropout, **{METHODS[name].rank: 8}
        )
        model = get_peft_model(base, config).train()
        factors = [p for p in model.parameters() if p.requires_grad]
        assert {p.dtype for p in factors} == {torch.float32}
        model = model.double() if dtype == torch.float64 else model
        x = torch.randn(256, 96).bfloat16().to(dtype).requires_grad_()
        torch.manual_seed(2)
        y: torch.Tensor = model(x)
        assert y.dtype == dtype
        node: Any = y.grad_fn
        kept = [t for t in getattr(node, "saved_tensors", ()) if t is not None and len(t) == 256]
        seen = node.name(), {t.dtype for t in kept}
        y.backward(torch.randn(256, 160).bfloat16().to(dtype))
        grads = {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}
        assert x.grad is not None and len(grads) == len(factors)
        return {"y": y.detach().double(), "x": x.grad.double(), **grads}, seen

    exact, _ = passed("reference", torch.float64)
    found, (node, kept) = passed("fused", torch.bfloat16)
    for key, value in exact.items():
        assert (found[key] - value).norm() < 0.01 * value.norm(), key
    if METHODS[name].chain(METHODS[name].settings()).linear or not dropout:
        assert "With" in node and kept <= {torch.bfloat16, torch.uint8}


def test_half_precision_with_a_small_range_is_left_to_autocast() -> None:
    model = model_of()
    layer = layer_of(model)
    for dtype, able in ((torch.bfloat16, True), (torch.float16, False)):
        layer.base_layer.to(dtype)
        assert fused(layer, torch.randn(2, 16, dtype=dtype)) is able
