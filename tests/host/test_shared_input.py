"""Layers that read the same input as one node: together where they may, apart where they must."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import batch, checkpoint, tiny_bert
from versions import rebuilds

import tapertune
from tapertune.host import ChainLayer

pytestmark = pytest.mark.filterwarnings("ignore:.*whose plan nobody runs:UserWarning")


def adapted(base: Any, **values: Any) -> Any:
    torch.manual_seed(1)
    return get_peft_model(base, tapertune.make_config("lora", **{"r": 2, "init_weights": False, **values}))


def layers(model: Any) -> dict[str, ChainLayer]:
    return {name.rpartition("model.")[2]: m for name, m in model.named_modules() if isinstance(m, ChainLayer)}


def nodes(output: torch.Tensor) -> int:
    """How many of our nodes an output has behind it."""
    stack, seen = [output.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [following for following, _ in node.next_functions]
    return sum("_LinearsWithChains" in node.name() for node in seen)


def forward(model: Any, **values: Any) -> torch.Tensor:
    return model(**batch(), **values).logits


def test_query_key_and_value_are_one_node() -> None:
    model = adapted(tiny_bert(), target_modules=["query", "key", "value", "output.dense"])
    groups = {id(layer.shared_input): len(layer.shared_input.layers) for layer in layers(model).values()}
    assert sorted(groups.values()) == [1, 1, 1, 1, 3, 3]
    assert nodes(forward(model)) == 2 * 3
    assert nodes(forward(adapted(tiny_bert(), target_modules=["query", "value"]))) == 2
    assert not any(layer.shared_input.apart for layer in layers(model).values() if len(layer.shared_input.layers) > 1)


def test_llama_and_cross_attention() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    llama = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    model = adapted(llama, target_modules=["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"])
    assert nodes(model(batch()["input_ids"]).logits) == 3
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu")
    )
    model = adapted(t5, target_modules=["q", "k", "v", "wi_0", "wi_1"])
    ids = batch()["input_ids"]
    for _ in range(2):
        # per side one for self-attention and one for the gate; across, the query alone, key and value together
        assert nodes(model(ids, decoder_input_ids=ids).logits) == 2 * 2 + 2
    crossing = [layer for name, layer in layers(model).items() if "EncDecAttention" in name]
    assert sorted(len(layer.shared_input.layers) for layer in crossing) == [1, 2, 2]


def test_together_or_apart_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    grads, outputs = [], []
    for together in (True, False):
        model = adapted(tiny_bert().double(), dropout=0.2).double().train()
        if not together:
            for layer in layers(model).values():
                monkeypatch.setattr(layer.shared_input, "apart", True)
        torch.manual_seed(2)
        outputs.append(forward(model))
        model.eval()
        forward(model).sum().backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert not torch.equal(outputs[0], outputs[1])  # a mask each when apart
    assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 10
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name])


def test_a_layer_called_out_of_turn() -> None:
    model = adapted(tiny_bert(), target_modules=["query", "key", "value"])
    expected = forward(model)
    first = layers(model)
    query, key = (
        next(layer for name, layer in first.items() if name.endswith(n))
        for n in ("0.attention.self.query", "0.attention.self.key")
    )
    x, y = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            key(y),
            key.base_layer(y) + key.scaling["default"] * y @ key.get_delta_weight("default").T / key.scaling["default"],
        )
        assert key.shared_input.apart
        torch.testing.assert_close(query(x), query.base_layer(x) + x @ query.get_delta_weight("default").T)
    torch.testing.assert_close(forward(model), expected)


def test_inference_mode() -> None:
    model = adapted(tiny_bert()).eval()
    expected = forward(model)
    with torch.inference_mode():
        torch.testing.assert_close(forward(model), expected)


def test_weights_that_change_between_two_calls() -> None:
    model = adapted(tiny_bert(), target_modules=["query", "key"])
    query, key = [layer for name, layer in layers(model).items() if ".0." in name]
    x = torch.randn(2, 3, 16)
    query(x)
    with torch.no_grad():
        key.factor("default", "B").add_(1.0)
        expected = key.base_layer(x) + x @ key.get_delta_weight("default").T
    torch.testing.assert_close(key(x), expected)


@rebuilds
def test_nothing_waits_longer_than_its_input() -> None:
    model = adapted(tiny_bert(), target_modules=["query", "key"])
    query = next(layer for name, layer in layers(model).items() if name.endswith("query"))
    x = torch.nn.functional.gelu(torch.randn(2, 3, 16, requires_grad=True))
    query(x)
    assert len(query.shared_input._waiting) == 1
    del x
    assert not query.shared_input._waiting


def test_checkpointing_and_copies() -> None:
    model = adapted(tiny_bert(), dropout=0.3).train()
    losses = []
    for reentrant in (None, True, False):
        if reentrant is not None:
            checkpoint(model, reentrant=reentrant)
            model.enable_input_require_grads()
        model.zero_grad()
        torch.manual_seed(3)
        forward(model).sum().backward()
        losses.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for other in losses[1:]:
        for one, two in zip(losses[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    model = adapted(tiny_bert()).eval()
    expected = forward(model)
    query = next(iter(layers(model).values()))
    query(torch.randn(2, 3, 16))  # a copy takes no outputs along that wait
    other = copy.deepcopy(model)
    torch.testing.assert_close(forward(other), expected)
    copied = next(iter(layers(other).values()))
    assert copied in copied.shared_input.layers and query not in copied.shared_input.layers
