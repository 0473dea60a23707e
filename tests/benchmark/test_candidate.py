from __future__ import annotations

import torch

from tapertune.benchmark.base_models import Base
from tapertune.benchmark.candidate import frozen_reference, repeatable, share_copy


def test_a_copy_shares_weights_and_not_modules(base: Base) -> None:
    copy = share_copy(base.model)
    assert all(a is b for a, b in zip(copy.parameters(), base.model.parameters(), strict=True))
    assert copy.get_submodule("classifier") is not base.model.get_submodule("classifier")
    copy.classifier = torch.nn.Identity()
    assert not isinstance(base.model.classifier, torch.nn.Identity)


def test_the_floor_steps_and_changes_nothing(base: Base) -> None:
    before = [p.clone() for p in base.model.parameters()]
    candidate = frozen_reference(base)
    candidate.step()
    assert candidate.steps == 1 and candidate.optimizer is None
    assert all(torch.equal(a, b) for a, b in zip(before, base.model.parameters(), strict=True))


def test_repeatable_is_seeded() -> None:
    with repeatable():
        first = torch.rand(3)
    with repeatable():
        assert torch.equal(torch.rand(3), first)
