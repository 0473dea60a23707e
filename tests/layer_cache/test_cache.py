"""What is kept is what would be computed: for each family, under any batches, as long as nothing below changes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from layer_cache.families import FAMILIES, QUICK, batches, family, freeze_below, same, train
from peft import get_peft_model
from tiny import checkpoint, tiny_bert

import tapertune
from tapertune.errors import TapertuneError

EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


def run(name: str, cached: dict[str, Any] | None, epochs: int = 4) -> tuple[dict[str, torch.Tensor], Any]:
    """The weights of a run in which a second layer freezes after half of the epochs, and its cache."""
    model, data = family(name), batches(name)
    freeze_below(model, 1)
    cache = None if cached is None else tapertune.cache_layers(model, **cached)
    train(model, data, epochs // 2)
    freeze_below(model, 2)
    return train(model, data, epochs - epochs // 2), cache


@pytest.mark.parametrize("name", EACH)
def test_kept_is_what_would_be_computed(name: str) -> None:
    """Bit for bit in float32: from memory, and with most of it from a file."""
    plain, _ = run(name, None)
    kept, cache = run(name, {})
    counts = cache.summary()
    # an epoch to fill, an epoch to carry up, and the two others begin at the layer
    assert (counts["misses"], counts["carried"], counts["hits"], counts["layer"]) == (9, 9, 18, 2)
    assert same(plain, kept)
    filed, cache = run(name, {"memory": 800, "disk": "1MB"})
    assert cache.summary()["disk_bytes"] > 0 and cache.summary()["hits"] == 18
    assert same(plain, filed)


def test_a_closed_cache_leaves_the_model_as_it_was() -> None:
    model = family("bert")
    hooks = [(dict(m._forward_pre_hooks), dict(m._forward_hooks), "forward" in vars(m)) for m in model.modules()]
    freeze_below(model, 2)
    cache = tapertune.cache_layers(model)
    train(model, batches("bert"), 2)
    copied = copy.deepcopy(model)
    cache.close()
    assert hooks == [
        (dict(m._forward_pre_hooks), dict(m._forward_hooks), "forward" in vars(m)) for m in model.modules()
    ]
    assert not any("forward" in vars(module) for module in copied.modules())
    assert cache.summary()["hits"] == 9


def test_rows_are_found_in_other_batches_of_other_lengths() -> None:
    """Tolerance: a row that is computed among others, padded to another length, is rounded in another order."""
    model = family("bert")
    freeze_below(model, 2)
    cache = tapertune.cache_layers(model)
    ids = torch.randint(3, 64, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(9) < torch.tensor([[9], [5], [4]])).long()
    model(input_ids=ids * mask, attention_mask=mask)
    again = {"input_ids": (ids * mask)[[2, 1], :6], "attention_mask": mask[[2, 1], :6]}
    found = model(**again).logits
    assert (cache.hits, cache.misses) == (2, 3)
    cache.close()
    assert torch.allclose(found, model(**again).logits, atol=1e-6)


def test_new_rows_among_kept_ones_are_computed_alone() -> None:
    model, (first, second, _) = family("llama"), batches("llama", lengths=(8, 8, 8))
    freeze_below(model, 2)
    cache = tapertune.cache_layers(model)
    model(**first)
    mixed = {name: torch.stack([first[name][2], second[name][0], first[name][1]]) for name in first}
    loss = model(**mixed).loss
    assert (cache.hits, cache.misses) == (2, 4)
    cache.close()
    assert torch.allclose(loss, model(**mixed).loss, atol=1e-6)


def changed_in_place(weight: torch.Tensor) -> None:
    with torch.no_grad():
        weight.add_(1e-3)


def changed_unseen(weight: torch.Tensor) -> None:
    weight.data.add_(1e-3)  # which leaves no trace in the tensor's version


def exchanged(weight: torch.Tensor) -> None:
    weight.data = weight.data * 2


@pytest.mark.parametrize("change", [changed_in_place, changed_unseen, exchanged])
def test_a_changed_weight_is_a_miss(change: Any) -> None:
    model, (batch, *_) = family("bert"), batches("bert")
    freeze_below(model, 2)
    cache = tapertune.cache_layers(model)
    for _ in range(2):
        model(**batch)
    change(model.bert.encoder.layer[0].output.dense.weight)  # type: ignore[union-attr]
    logits = model(**batch).logits
    assert (cache.hits, cache.misses) == (3, 6)
    cache.close()
    assert torch.equal(logits, model(**batch).logits)


@pytest.mark.parametrize(
    "change",
    [
        lambda batch: {**batch, "input_ids": batch["input_ids"].roll(1, 1)},
        lambda batch: {**batch, "token_type_ids": torch.ones_like(batch["input_ids"])},
        lambda batch: {**batch, "position_ids": torch.arange(1, batch["input_ids"].shape[1] + 1)[None]},
        lambda batch: {**batch, "attention_mask": batch["attention_mask"].roll(1, 1)},
    ],
)
def test_what_a_row_is_made_of_is_its_key(change: Any) -> None:
    model, (batch, *_) = family("bert"), batches("bert")
    freeze_below(model, 2)
    cache = tapertune.cache_layers(model)
    model(**batch)
    other = change(batch)
    logits = model(**other).logits
    cache.close()
    assert torch.equal(logits, model(**other).logits)


def test_a_layer_that_trains_again_is_computed_again() -> None:
    model, data = family("bert"), batches("bert")
    plain = copy.deepcopy(model)
    freeze_below(model, 2)
    freeze_below(plain, 2)
    cache = tapertune.cache_layers(model)
    for level in (2, 0, 2):
        freeze_below(model, level)
        freeze_below(plain, level)
        assert same(train(model, data, 2), train(plain, data, 2))
    assert cache.summary()["hits"] == 18


def adapted(**settings: Any) -> Any:
    base = tiny_bert(2)
    torch.manual_seed(1)
    config = tapertune.make_config("lora", layers_to_transform=[1], init_weights=False, **settings)
    return get_peft_model(base, config)  # type: ignore[arg-type]


def test_adapters_that_are_at_work_are_told_apart() -> None:
    model, (batch, *_) = adapted(), batches("bert")
    model.base_model.model.bert.encoder.layer[1].requires_grad_(True)
    cache = tapertune.cache_layers(model)
    first = model(**batch).logits
    with model.disable_adapter():
        bare = model(**batch).logits
    assert not torch.equal(first, bare)
    assert torch.equal(first, model(**batch).logits)
    cache.close()
    with model.disable_adapter():
        assert torch.equal(bare, model(**batch).logits)


def test_evaluation_has_rows_of_its_own_and_generation_runs_whole() -> None:
    model, (batch, *_) = family("llama"), batches("llama")
    model.config.use_cache = False  # type: ignore[union-attr]
    freeze_below(model, 2)
    cache = tapertune.cache_layers(model)
    model(**batch)
    model.eval()
    with torch.no_grad():
        model(**batch)
        model(**batch)
    assert (cache.misses, cache.hits) == (6, 3)
    generate: Any = model.generate  # type: ignore[union-attr]
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    texts = generate(**asked, max_new_tokens=3, do_sample=False, pad_token_id=0, use_cache=True)
    states = model(**asked, output_hidden_states=True).hidden_states
    assert (cache.misses, cache.hits, len(states)) == (6, 3, 5)
    cache.close()
    assert torch.equal(texts, generate(**asked, max_new_tokens=3, do_sample=False, pad_token_id=0, use_cache=True))


def test_dropout_is_refused_or_off_in_frozen_layers_alone() -> None:
    """With dropout off below, what is kept changes nothing: not a draw of the layers above."""

    def trained(**settings: Any) -> tuple[dict[str, torch.Tensor], Any]:
        model = tiny_bert(2)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.2
        freeze_below(model, 1)
        cache = tapertune.cache_layers(model.train(), **settings)
        torch.manual_seed(3)
        return train(model, batches("bert"), 3), cache

    with pytest.raises(
        TapertuneError, match=r"dropout in layers that freeze, embeddings.dropout \(0.2\).*cache.dropout"
    ):
        trained()
    kept, cache = trained(dropout="off")
    without, nothing = trained(dropout="off", memory=0)
    assert (cache.summary()["hits"], nothing.summary()["hits"]) == (18, 0)
    assert same(kept, without)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpoints(reentrant: bool) -> None:
    def trained(cached: bool) -> dict[str, torch.Tensor]:
        model = family("bert")
        freeze_below(model, 2)
        checkpoint(model, reentrant=reentrant)
        if reentrant:
            model.enable_input_require_grads()  # type: ignore[operator]
        cache = tapertune.cache_layers(model) if cached else None
        weights = train(model, batches("bert"), 2)
        assert cache is None or cache.summary()["hits"] == 9
        return weights

    assert same(trained(True), trained(False))


def test_half_precision_is_kept_in_half_the_bytes() -> None:
    def trained(**settings: Any) -> tuple[dict[str, torch.Tensor], int]:
        model = family("bert")
        freeze_below(model, 2)
        cache = tapertune.cache_layers(model, **settings)
        return train(model, batches("bert"), 3), cache.summary()["memory_bytes"]

    (whole, size), (half, small) = trained(), trained(dtype="bfloat16")
    assert small * 2 == size
    apart = max(float((whole[name] - half[name]).abs().max()) for name in whole)
    assert 0 < apart < 1e-3
    # rounded from the first pass on, so that it makes no difference what was kept
    assert same(half, trained(dtype="bfloat16", memory=0)[0])


def test_what_trains_below_ends_it_with_a_line() -> None:
    lines: list[str] = []
    model = family("bert")
    freeze_below(model, 2)
    model.bert.embeddings.requires_grad_(True)  # type: ignore[union-attr]
    from tapertune.layer_cache.cache import LayerCache
    from tapertune.layer_cache.settings import CacheSettings

    cache = LayerCache(model, CacheSettings(), lines.append)
    train(model, batches("bert"), 2)
    assert cache.summary()["hits"] == 0
    assert len(lines) == 1 and "embeddings.word_embeddings.weight trains" in lines[0]


class Mixing(torch.nn.Module):
    """A layer that leaves something behind for the next ones beside its states."""

    left: list[torch.Tensor]

    def __init__(self, number: int, left: list[torch.Tensor]) -> None:
        super().__init__()
        self.number, self.left, self.linear = number, left, torch.nn.Linear(4, 4)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        self.left.append(states.mean(-1, keepdim=True))
        return self.linear(states) + self.left[-2 if self.number else -1]


class Leaky(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left: list[torch.Tensor] = []
        self.embed = torch.nn.Embedding(64, 4)
        self.blocks = torch.nn.ModuleList([Mixing(i, self.left) for i in range(3)])

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> tuple[torch.Tensor]:
        self.left.clear()
        states = self.embed(input_ids)
        for block in self.blocks:
            states = block(states)
        return (states,)


def test_layers_that_hand_on_more_than_states_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = Leaky()
    with pytest.raises(
        TapertuneError, match=r"model of type 'Leaky' has its layers is not known.*its lists are blocks"
    ):
        tapertune.cache_layers(model)
    model.requires_grad_(False)
    model.blocks[2].requires_grad_(True)
    ids = torch.arange(6).view(2, 3)
    plain = model(input_ids=ids)[0]
    cache = tapertune.cache_layers(model, layers="blocks")
    assert torch.equal(plain, model(input_ids=ids)[0])
    assert cache.off is not None and "hands on more than the layers' states" in caplog.text


def test_faults_name_what_was_looked_for(tmp_path: Path) -> None:
    model = family("bert")
    with pytest.raises(
        TapertuneError, match=r"looked for a list of layers 'encoder.layers' for cache.layers.*did you mean"
    ):
        tapertune.cache_layers(model, layers="encoder.layers")
    with pytest.raises(TapertuneError, match=r"cache.memroy.*cache.memory"):
        tapertune.cache_layers(model, memroy=1)
    for wrong in ({"memory": "2 parsecs"}, {"disk": -1}, {"dtype": "float16"}, {"dropout": "on"}, {"folder": 3}):
        with pytest.raises(TapertuneError, match=f"cache.{next(iter(wrong))}"):
            tapertune.cache_layers(model, **wrong)
    with pytest.raises(TapertuneError, match=r"cache.folder needs cache.disk"):
        tapertune.cache_layers(model, folder=str(tmp_path))
    model.config.encoder_layerdrop = 0.1  # type: ignore[union-attr]
    with pytest.raises(TapertuneError, match=r"config.encoder_layerdrop is 0.1"):
        tapertune.cache_layers(model)


def test_every_known_list_is_one_of_a_family_or_alike() -> None:
    from tapertune.host.layer_lists import LAYER_LISTS
    from tapertune.host.module_names import TARGETS

    assert set(FAMILIES) <= set(LAYER_LISTS)
    assert set(LAYER_LISTS) <= set(TARGETS)
