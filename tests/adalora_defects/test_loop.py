"""In plain loops: settings, gradients that are missing or broken, the end of the schedule, and what pruning frees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adalora_defects.side import QUIET, TOTAL, Follower, adamw, make, ranks, train, trainable
from peft import PeftModel
from tiny import batch, tiny_bert
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tapertune.adapt import optimizer_bytes

pytestmark = QUIET


@pytest.mark.parametrize("task_type", ["SEQ_CLS", None])
def test_penalty_survives_tuple_outputs(task_type: str | None) -> None:
    """PEFT 0.21.2: largest difference that the penalty makes to any gradient with ``return_dict=False``: 0.0, as a
    tuple has no ``loss`` to add it to; with a ModelOutput 3.4e-4. A config without ``task_type`` never gets it, tuple
    or not: PeftModel then calls the base model past the place where it is added.
    """
    seen = []
    for weight in (0.1, 0.0):
        model = make(orth_reg_weight=weight, task_type=task_type)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        Follower(model, optimizer)
        optimizer.zero_grad()
        model(**batch(), return_dict=False)[0].backward()
        optimizer.step()
        seen.append(torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]))
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("target", [4, 5])
def test_a_target_that_is_no_reduction_is_refused_at_once(target: int) -> None:
    """PEFT 0.21.2: RuntimeError: kthvalue(): selected number k out of range for dimension 0, at step 3: the first one
    at which ranks are decided.
    """
    with pytest.raises(ValueError, match=f"target_r is {target}; it must be less than init_r, which is 4"):
        make(target_r=target)


def with_unused_layer() -> nn.Module:
    base = tiny_bert()
    base.add_module("unused", nn.Linear(16, 16))
    return base


def test_a_module_without_gradient() -> None:
    """PEFT 0.21.2: TypeError: unsupported operand type(s) for *: 'Parameter' and 'NoneType', in ``update_ipt``."""
    model = make(with_unused_layer(), target_modules=["query", "unused"])
    optimizer = adamw(model)
    train(model, optimizer, Follower(model, optimizer), range(TOTAL))
    kept = ranks(model)
    assert sum(kept) == 6 and kept[-1] == 0, "what never had a gradient gives up its ranks first"


class Skipping(torch.optim.AdamW):
    """Leaves out a step whose gradients are not finite, as optimizers with such a guard do."""

    def step(self, closure: Any = None) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        return super().step() if all(g.isfinite().all() for g in grads) else None


def test_a_gradient_that_is_not_finite_is_forgotten() -> None:
    """PEFT 0.21.2: after one step of NaN gradients 1576 of 1576 averages are NaN, at step 10 still; the run ends with
    40 of 40 ranks, as no score compares with NaN.
    """
    model = make()
    optimizer = Skipping([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    follower = Follower(model, optimizer)
    for t in range(TOTAL):
        optimizer.zero_grad()
        model(**batch(seed=t)).loss.backward()
        if t == 3:
            for p in (p for p in model.parameters() if p.grad is not None):
                p.grad.fill_(float("nan"))
        optimizer.step()
        follower.after(t)
    assert sum(ranks(model)) == 20


def test_going_on_past_the_last_budget_change(tmp_path: Path) -> None:
    """PEFT 0.21.2, an adapter loaded to train on after the budget has settled: RuntimeError: The
    size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0, as the mask has the old rank.
    A model that has not been through the last change (``rank_pattern`` None) fails with AttributeError: 'NoneType'
    object has no attribute 'keys'. A run in one piece does not fail, even beyond ``total_step``.
    """
    model = make()
    optimizer = adamw(model)
    follower = Follower(model, optimizer)
    train(model, optimizer, follower, range(13))
    follower.save(tmp_path)
    again = PeftModel.from_pretrained(tiny_bert(), tmp_path, is_trainable=True)
    second = adamw(again)
    train(again, second, Follower.resumed(again, second, tmp_path), range(13, TOTAL + 4))
    assert sum(ranks(again)) == 20
    train(model, optimizer, follower, range(13, TOTAL + 4))
    assert ranks(again) == ranks(model)


def test_pruning_lowers_what_training_costs() -> None:
    """PEFT 0.21.2, first step and last: 1610 and 1610 parameters train, 13008 and 13008 bytes of optimizer state,
    803584 and 803584 FLOPs a step, with 40 and 20 ranks in use.
    """
    model = make()
    optimizer = adamw(model)
    follower = Follower(model, optimizer)

    def costs() -> tuple[int, int, int]:
        with FlopCounterMode(display=False) as counter:
            model(**batch(seed=99)).loss.backward()
        model.zero_grad()
        return trainable(model), optimizer_bytes(optimizer), counter.get_total_flops()

    train(model, optimizer, follower, range(1))
    before = costs()
    train(model, optimizer, follower, range(1, TOTAL))
    after = costs()
    assert sum(ranks(model)) == 20
    head = 2 * 16 + 2
    assert after[0] - head < 0.6 * (before[0] - head)
    moments = 2 * 4  # AdamW keeps two float32 numbers for each parameter
    # and a counter of four bytes for each tensor: those of which nothing is left have left training with it
    gone = sum(not p.numel() for p in model.parameters())
    assert before[1] - after[1] == moments * (before[0] - after[0]) + 4 * gone
    assert after[2] < before[2]
