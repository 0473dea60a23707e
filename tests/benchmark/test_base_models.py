from __future__ import annotations

import pytest
import torch

from tapertune.benchmark.base_models import MODELS, Base, make_base, model_row
from tapertune.benchmark.setting import Setting
from tapertune.errors import TapertuneError


def test_nothing_trains_and_the_gradient_reaches_the_embeddings(base: Base) -> None:
    seen: list[torch.Tensor] = []
    hook = base.model.get_input_embeddings().register_forward_hook(lambda *call: seen.append(call[2]))
    base.model(**base.batch).loss.backward()
    hook.remove()
    assert not any(p.requires_grad for p in base.model.parameters())
    assert seen[0].grad is not None and seen[0].grad.abs().sum() > 0


def test_every_linear_layer_of_the_body_is_a_target_and_none_of_the_head(base: Base) -> None:
    names = base.target_names()
    assert len(names) == 2 * 6
    assert all("encoder.layer" in name for name in names)


def test_a_base_is_the_same_whenever_it_is_made(base: Base, setting: Setting) -> None:
    again = make_base("bert-2x128", setting)
    assert all(torch.equal(a, b) for a, b in zip(base.model.parameters(), again.model.parameters(), strict=True))
    assert all(torch.equal(base.batch[name], again.batch[name]) for name in base.batch)


def test_half_precision(setting: Setting) -> None:
    half = make_base("bert-2x128", setting.model_copy(update={"dtype": "bfloat16"}))
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert half.model(**half.batch).loss.isfinite()


def test_shapes_of_the_declared_models() -> None:
    with torch.device("meta"):
        sizes = {
            name: sum(p.numel() for p in row.make().parameters()) for name, row in MODELS.items() if name != "minilm"
        }
    # without what is cut of their vocabularies of 128,256 and 151,936
    assert sizes["llama-3b"] + 3072 * (128_256 - 8192) == pytest.approx(3.21e9, rel=0.01)
    assert sizes["qwen2.5-0.5b"] + 896 * (151_936 - 8192) == pytest.approx(494e6, rel=0.01)
    assert sizes["llama-1b"] == pytest.approx(1.0e9, rel=0.1)
    # the real one's 134.5M parameters, without the part of its vocabulary of 49,152 that is cut
    assert sizes["smollm2"] + 576 * (49_152 - 8192) == pytest.approx(134.5e6, rel=0.01)


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(TapertuneError, match="did you mean 'bert-6x384'"):
        model_row("bert-6x38")
