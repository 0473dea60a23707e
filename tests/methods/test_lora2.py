"""LoRA^2 against recorded runs of its released code, its counts, and its thin form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_runs import replay_budget
from peft import get_peft_model
from tiny import batch, tiny_bert

import tapertune
from tapertune.errors import TapertuneError
from tapertune.kernels.update_flops import flops_per_token, saved_bytes_per_token
from tapertune.methods import METHODS

ROW = METHODS["lora2"]
SHAPES = [(768, 768)] * 4 + [(768, 3072), (3072, 768)]


@pytest.mark.parametrize("run", ["lora2_0.npz", "lora2_1.npz"])
def test_released_runs_are_reproduced(golden: Any, run: str) -> None:
    recorded = golden(run)
    inner = recorded["init/layers.0.lora_A"].shape[0]
    replay_budget(recorded, "lora2", {"rows": ["A"], "columns": ["B"]}, k=inner)


def test_counts_of_the_paper() -> None:
    """DeBERTaV3-base: 1,336,896 at k = r = 8; 166,104 to 167,616 at k = 1; 9,792 scored elements at r = 8."""

    def total(k: int, r: int) -> int:
        chain = ROW.chain(ROW.settings(init_r=r, k=k))
        return 12 * sum(chain.parameter_count({"d_in": i, "d_out": o, "k": k, "init_r": r}) for i, o in SHAPES)

    assert total(8, 8) == 1_336_896
    assert (total(1, 1), total(1, 8)) == (166_104, 167_616)
    chain = ROW.chain(ROW.settings())
    scored = ROW.plan(ROW.settings())["policy"]["scored"]  # type: ignore[index]
    sizes = {"d_in": 768, "d_out": 768, "k": 8, "init_r": 8}
    assert 72 * chain.parameter_count(sizes, scored) == 9_792


def test_nothing_dense_is_kept_or_computed() -> None:
    chain = ROW.chain(ROW.settings())
    sizes = {"d_in": 768, "d_out": 3072, "k": 8, "init_r": 8}
    assert flops_per_token(chain, sizes, way="kernel").total == 6 * 8 * (768 + 3072)
    assert saved_bytes_per_token(chain, sizes) == 4 * (768 + 8)


@pytest.mark.parametrize(("init_r", "k", "rank"), [(4, 8, 4), (8, 4, 4), (5, 5, 5)])
def test_lora_form_has_the_smaller_of_both_widths(init_r: int, k: int, rank: int) -> None:
    config = tapertune.make_config("lora2", init_r=init_r, k=k, init_weights=False)
    layer = get_peft_model(tiny_bert(), config).base_model.model.bert.encoder.layer[0].output.dense
    down, up = layer.chains["default"].lora_factors(layer.tensors("default"))
    assert down.shape[0] == up.shape[1] == rank


@pytest.mark.parametrize(
    ("planes", "cross", "terms"), [(True, True, 6), (True, False, 4), (False, True, 2), (False, False, 0)]
)
def test_each_penalty_can_be_switched(planes: bool, cross: bool, terms: int) -> None:
    config = tapertune.make_config("lora2", init_r=4, k=3, orth_planes=planes, orth_cross=cross)
    (plan,) = config.resolved_plans()
    penalties: Any = plan.penalties
    found = (
        [*penalties[0].rows, *penalties[0].columns, *penalties[0].row_products, *penalties[0].column_products]
        if penalties
        else []
    )
    assert len(found) == terms
    model = get_peft_model(tiny_bert(), config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    tapertune.attach(model, optimizer, total_steps=20)
    loss = model(**batch()).loss
    loss.backward()
    layer = model.base_model.model.bert.encoder.layer[0].output.dense
    assert not layer.factor("default", "bb").grad.any(), "with E at zero the loss alone moves nothing but E"
    optimizer.step()
    assert layer.factor("default", "bb").grad.any() == bool(terms)


def test_bad_settings() -> None:
    with pytest.raises(TapertuneError, match="k is 0; it must be a positive whole number"):
        ROW.settings(k=0)
    with pytest.raises(TapertuneError, match="target_r is 8; it must be less than init_r, which is 8"):
        ROW.settings(target_r=8)
