"""Of one process; two are in tests/train/test_distributed.py."""

from __future__ import annotations

import torch
from tiny import mlp

from tapertune.tasks.kinds.sharing import gathered, share


def test_one_process_has_all_batches() -> None:
    assert share(mlp()) == (0, 1)
    assert gathered([1, 2], 1) == [1, 2]


def test_split_weights_are_seen() -> None:
    from tapertune.tasks.kinds.sharing import _is_spread  # what decides once there are several processes

    model = mlp()
    assert not _is_spread(model)
    next(iter(model.parameters())).ds_id = 0  # pyright: ignore[reportAttributeAccessIssue]  as DeepSpeed marks its own
    assert _is_spread(model)

    class FlatParameter(torch.nn.Parameter):
        """By the name that FSDP gives it."""

    assert _is_spread(torch.nn.ParameterList([FlatParameter(torch.zeros(1))]))
