from __future__ import annotations

import pytest
import torch

from tapertune.benchmark.base_models import Base
from tapertune.benchmark.candidate import Candidate
from tapertune.benchmark.counts import count
from tapertune.benchmark.variants import COMPILED, FLOOR, VARIANTS, build, choose
from tapertune.errors import TapertuneError


def trained(candidate: Candidate) -> set[str]:
    """Factors that train."""
    names = [name for name, p in candidate.model.named_parameters() if p.requires_grad]
    return {name.removesuffix(".default.weight").rpartition("_")[2] for name in names}


@pytest.mark.parametrize("name", VARIANTS)
def test_steps_on_the_whole_batch_and_trains(base: Base, name: str) -> None:
    candidate = build(name, base)
    assert candidate.batch is base.batch
    candidate.step()
    if name == FLOOR:
        assert not candidate.trained()
        return
    candidate.loss().backward()
    grads = [p.grad for p in candidate.trained()]
    assert grads and all(grad is not None and grad.isfinite().all() for grad in grads)
    inside = sum(p.numel() for p in candidate.trained())
    assert inside == sum(p.numel() for group in candidate.optimizer.param_groups for p in group["params"]) or (  # type: ignore[union-attr]
        "frozen" in name or "pruned" in name
    )


def test_frozen_subjects_train_what_is_left(base: Base) -> None:
    assert trained(build("ours-aflora", base)) == {"A", "d", "B", "b"}
    assert trained(build("ours-aflora-frozen-a", base)) == {"d", "B", "b"}
    assert trained(build("ours-aflora-frozen", base)) == {"d", "b"}


def test_the_pruned_subject_and_the_one_built_at_its_ranks_are_alike(base: Base) -> None:
    pruned, built = build("ours-adalora-pruned", base), build("ours-adalora-built", base)
    shapes = [[tuple(p.shape) for p in candidate.trained()] for candidate in (pruned, built)]
    assert shapes[0] == shapes[1]
    assert pruned.controller is not None and sum(pruned.controller.ranks.values()) == 8 * len(base.target_names())


def test_both_adaloras_decide_every_ten_steps(base: Base) -> None:
    ours, theirs = build("ours-adalora", base), build("peft-adalora", base)
    assert ours.controller is not None and ours.controller.plans[0].schedule.acts(10, 10_000)
    assert not ours.controller.plans[0].schedule.acts(11, 10_000)
    allocator = theirs.model.base_model.rankallocator
    assert [allocator.budget_schedule(step)[1] for step in (9, 10, 11)] == [False, True, False]


def test_choosing() -> None:
    assert choose(None) == list(VARIANTS)
    assert choose(["ours-lora"]) == [FLOOR, "ours-lora"]
    assert choose(["compiled-"]) == [FLOOR, *COMPILED]
    assert choose(["peft-"]) == [FLOOR, *(name for name in VARIANTS if name.startswith("peft-"))]


@pytest.mark.parametrize(
    ("names", "message"), [(["our-lora"], "did you mean 'ours-lora'"), ([FLOOR], "the floor alone")]
)
def test_what_cannot_be_chosen(names: list[str], message: str) -> None:
    with pytest.raises(TapertuneError, match=message):
        choose(names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_subject_is_the_same_one(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler that traces and makes no code."""
    make = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: make(*args, **{**kwargs, "backend": "aot_eager"}))
    for name in ("ours-lora", "ours-lora-dropout"):
        plain, compiled = build(name, base), build(f"compiled-{name}", base)
        if "dropout" not in name:
            torch.testing.assert_close(compiled.loss(), plain.loss())
        first, second = count(plain), count(compiled)
        assert first.trained == second.trained and first.optimizer_bytes == second.optimizer_bytes
        assert first.flops == second.flops
        # also where another has been counted before
        assert second.kernel_nodes == 0 < first.kernel_nodes
